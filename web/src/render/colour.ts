// Colour maps and the colours of parts of a picture. No framework.
//
//   table(map, theme)          256 colours as RGBA words for ImageData
//   css(map, theme, t)         one of them, t in 0…1, for CSS and SVG
//   ink(map, theme, t)         "#000" or "#fff": what can be read on it
//   palette(theme)             text, line, accent…: the style sheet's variables, as a canvas needs them
//   currentTheme(), onTheme(hear)   "light" or "dark"; the reader's own choice or the system's
//
// Both maps are made in OKLCH with lightness that only rises or only falls, so that they read without colour vision and
// in grey. The sequential one begins at the page's own colour: nothing there, nothing drawn. The diverging one goes from
// orange through the page's colour to blue, the pair that every common kind of colour blindness tells apart.

export type Theme = "light" | "dark";
export type MapName = "sequential" | "diverging";

// Lightness, chroma and hue at equal steps.
type Stops = readonly (readonly [number, number, number])[];

const STOPS: Record<MapName, Record<Theme, Stops>> = {
  sequential: {
    light: [[0.985, 0.004, 230], [0.88, 0.05, 228], [0.74, 0.095, 236], [0.56, 0.125, 248], [0.4, 0.12, 262], [0.25, 0.08, 275]],
    dark: [[0.225, 0.012, 265], [0.34, 0.075, 268], [0.47, 0.115, 250], [0.62, 0.115, 215], [0.78, 0.125, 168], [0.95, 0.13, 108]],
  },
  diverging: {
    light: [[0.4, 0.115, 42], [0.58, 0.14, 48], [0.8, 0.085, 62], [0.985, 0.004, 90], [0.8, 0.075, 235], [0.56, 0.13, 250], [0.36, 0.12, 264]],
    dark: [[0.86, 0.12, 72], [0.68, 0.145, 55], [0.42, 0.085, 45], [0.225, 0.012, 265], [0.42, 0.085, 255], [0.66, 0.125, 240], [0.88, 0.07, 225]],
  },
}; // prettier-ignore

function rgb(lightness: number, chroma: number, hue: number): [number, number, number] {
  const a = chroma * Math.cos((hue * Math.PI) / 180);
  const b = chroma * Math.sin((hue * Math.PI) / 180);
  // Björn Ottosson, "A perceptual color space for image processing", 2020: OKLab to linear sRGB.
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    gamma(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
    gamma(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
    gamma(-0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s),
  ];
}

function gamma(linear: number): number {
  const value = linear <= 0.0031308 ? 12.92 * linear : 1.055 * linear ** (1 / 2.4) - 0.055;
  return Math.round(255 * Math.min(1, Math.max(0, value)));
}

const tables = new Map<string, Uint32Array>();

export function table(map: MapName, theme: Theme): Uint32Array {
  const key = `${map} ${theme}`;
  let made = tables.get(key);
  if (!made) {
    const stops = STOPS[map][theme];
    made = new Uint32Array(256);
    for (let i = 0; i < 256; i++) {
      const place = (i / 255) * (stops.length - 1);
      const at = Math.min(stops.length - 2, Math.floor(place));
      const [from, to, part] = [stops[at], stops[at + 1], place - at];
      const turn = ((to[2] - from[2] + 540) % 360) - 180; // the short way round
      const mix = (k: 0 | 1) => from[k] + (to[k] - from[k]) * part;
      made[i] = word(...rgb(mix(0), mix(1), from[2] + turn * part));
    }
    tables.set(key, made);
  }
  return made;
}

/** As ImageData has them on a little-endian machine. */
export const word = (red: number, green: number, blue: number): number =>
  ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;

const parts = (colour: number): [number, number, number] => [colour & 255, (colour >> 8) & 255, (colour >> 16) & 255];

const place = (t: number): number => Math.min(255, Math.max(0, Math.round(255 * t)));

export function css(map: MapName, theme: Theme, t: number): string {
  return `rgb(${parts(table(map, theme)[place(t)]).join(" ")})`;
}

/** Black or white, whichever stands out more (WCAG 2.2, relative luminance): at least 4.5 to 1 on every colour. */
export function ink(map: MapName, theme: Theme, t: number): string {
  const [red, green, blue] = parts(table(map, theme)[place(t)]).map((part) =>
    part <= 10 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4,
  );
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000" : "#fff";
}

// ---------------------------------------------------------------------------------------------------- pictures

/** Colours of the style sheet, by the names of its variables. */
const NAMES = [
  "page", "panel", "text", "muted", "line", "accent", "lock", "hidden", "nan", "positive", "negative", "query", "key", "value",
] as const; // prettier-ignore

export type Palette = Readonly<Record<(typeof NAMES)[number], string>>;

const palettes = new Map<Theme, Palette>();

/** As "rgb(r, g, b)"; only of the theme in force. */
export function palette(theme: Theme): Palette {
  let found = palettes.get(theme);
  if (!found) {
    const probe = document.createElement("span");
    document.body.append(probe);
    const asked = (name: string): string => {
      probe.style.color = `var(--${name})`;
      return getComputedStyle(probe).color;
    };
    found = Object.fromEntries(NAMES.map((name) => [name, asked(name)])) as unknown as Palette;
    probe.remove();
    if (currentTheme() === theme) palettes.set(theme, found);
  }
  return found;
}

/** A colour of the palette as ImageData has it. */
export const pixel = (colour: string): number => {
  const [red, green, blue] = (colour.match(/[\d.]+/g) ?? []).map(Number);
  return word(red ?? 0, green ?? 0, blue ?? 0);
};

export const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif';
export const MONO = 'ui-monospace, "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace';

const listeners = new Set<(theme: Theme) => void>();
// Asked for by every frame; forgotten when it changes.
let known: Theme | null = null;

export function currentTheme(): Theme {
  if (known) return known;
  const chosen = document.documentElement.dataset.theme;
  if (chosen === "light" || chosen === "dark") known = chosen;
  else known = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  return known;
}

export function onTheme(hear: (theme: Theme) => void): () => void {
  listeners.add(hear);
  return () => listeners.delete(hear);
}

/** The reader's choice; null is the system's. */
export function chooseTheme(theme: Theme | null): void {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  tellTheme();
}

function tellTheme(): void {
  known = null;
  for (const hear of listeners) hear(currentTheme());
}

if (typeof matchMedia !== "undefined") {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tellTheme);
}
