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

// The whole page as one file, alone.html, for pages that are exported: what it is to show is put in place of the comment.
const PLACE = "<!-- answers -->";

function oneFile(): Plugin {
  return {
    name: "one-file",
    enforce: "post",
    // After Vite's own, which puts the last names into the code.
    generateBundle: {
      order: "post",
      handler(_, bundle) {
        const page = bundle["index.html"];
        if (page?.type !== "asset") throw new Error("vite left no index.html");
        const code: string[] = [];
        const styles: string[] = [];
        for (const [name, file] of Object.entries(bundle)) {
          if (file.type === "chunk") code.push(file.code.replaceAll("</script", "<\\/script"));
          else if (name.endsWith(".css")) styles.push(String(file.source).replaceAll("</style", "<\\/style"));
          delete bundle[name];
        }
        if (code.length !== 1) throw new Error(`one script was to be left, there are ${code.length}`);
        const bare = String(page.source).replace(/<script type="module"[^>]*><\/script>|<link rel="stylesheet"[^>]*>/g, "");
        const head = `${PLACE}<style>${styles.join("\n")}</style>`;
        const source = bare
          .replace("</head>", () => `${head}</head>`)
          .replace("</body>", () => `<script type="module">${code[0]}</script></body>`);
        this.emitFile({ type: "asset", fileName: "alone.html", source });
      },
    },
  };
}

export default defineConfig(({ mode }) => {
  const alone = mode === "alone";
  return {
    // Relative, so that the page also works below a path, as behind a notebook's proxy.
    base: "./",
    plugins: [oneFontFormat(), svelte({ configFile: false }), ...(alone ? [oneFile()] : [])],
    build: {
      target: "es2022",
      outDir: "../src/pellucid/explorer/static",
      emptyOutDir: !alone,
      assetsInlineLimit: alone ? Number.MAX_SAFE_INTEGER : 0,
      cssCodeSplit: !alone,
      reportCompressedSize: false,
      rollupOptions: alone ? { output: { inlineDynamicImports: true } } : {},
    },
    server: {
      proxy: { "/api": process.env.PELLUCID_SERVER ?? "http://127.0.0.1:8712" },
    },
  };
});
