import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig, type Plugin } from "vite";

// KaTeX's style sheet names every font in three formats; browsers that run this page need one.
function oneFontFormat(): Plugin {
  return {
    name: "one-font-format",
    enforce: "pre",
    transform(code, id) {
      if (!id.includes("katex") || !id.endsWith(".css")) return null;
      return code.replace(/,\s*url\([^)]*\.(?:woff|ttf)\)\s*format\([^)]*\)/g, "");
    },
  };
}

export default defineConfig({
  // Relative, so that the page also works below a path, as behind a notebook's proxy.
  base: "./",
  plugins: [oneFontFormat(), svelte({ configFile: false })],
  build: {
    target: "es2022",
    outDir: "../src/pellucid/explorer/static",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    reportCompressedSize: false,
  },
  server: {
    proxy: { "/api": process.env.PELLUCID_SERVER ?? "http://127.0.0.1:8712" },
  },
});
