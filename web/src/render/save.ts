// Pictures and numbers as files, with a caption that says what they are of. No framework.
//
//   savePng(draw, width, height, caption, name)   draws once more at twice the size, caption below
//   saveSvg(body, width, height, caption, name)
//   saveCsv(tensor, rows, columns, caption, name) the caption as lines that begin with #
//   saveNpy(tensor, name)                         NumPy's format 1.0, float32
//   npy(tensor), csv(…), wrapped(caption)         what these write, for tests
//   asSeen(picture)                               the body of an SVG of the page, for saveSvg
//   captionOf(lines)                              joins what is known, drops what is not

import { FONT, palette, type Theme } from "./colour";
import type { Tensor } from "../api/tensor";

export type Caption = readonly string[];

export const captionOf = (lines: readonly (string | null | undefined | false)[]): Caption =>
  lines.filter((line): line is string => Boolean(line));

/** Letters, digits, dots and dashes only, so that any file system takes it. */
export const fileName = (text: string): string => text.replace(/[^\w.@-]+/g, "-").replace(/^-+|-+$/g, "") || "pellucid";

function download(content: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// A letter is about half as wide as it is high; a caption may be short of the edge, but not beyond it.
export function wrapped(caption: Caption, width: number, size = 11): string[] {
  const most = Math.max(20, Math.floor(width / (0.56 * size)));
  return caption.flatMap((line) => {
    const lines: string[] = [];
    let rest = line;
    while (rest.length > most) {
      const space = rest.lastIndexOf(" ", most);
      const cut = space > most / 2 ? space : most;
      lines.push(rest.slice(0, cut));
      rest = rest.slice(cut).trimStart();
    }
    return [...lines, rest];
  });
}

const MARGIN = 12;
const LINE = 16;

export function savePng(
  draw: (context: CanvasRenderingContext2D) => void,
  width: number,
  height: number,
  caption: Caption,
  name: string,
  theme: Theme,
): void {
  // A browser makes no file of a canvas beyond its limit: then it is drawn at its own size.
  const save = (scale: number): void =>
    painted(draw, width, height, caption, theme, scale).toBlob((blob) => {
      if (blob) download(blob, `${fileName(name)}.png`);
      else if (scale > 1) save(1);
    }, "image/png");
  save(2);
}

function painted(
  draw: (context: CanvasRenderingContext2D) => void,
  width: number,
  height: number,
  caption: Caption,
  theme: Theme,
  scale: number,
): HTMLCanvasElement {
  const across = Math.max(width, 360);
  const lines = wrapped(caption, across);
  const canvas = document.createElement("canvas");
  canvas.width = scale * (across + 2 * MARGIN);
  canvas.height = scale * (height + 3 * MARGIN + lines.length * LINE);
  const context = canvas.getContext("2d")!;
  const colours = palette(theme);
  context.scale(scale, scale);
  context.fillStyle = colours.panel;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.save();
  context.translate(MARGIN, MARGIN);
  draw(context);
  context.restore();
  context.fillStyle = colours.muted;
  context.font = `11px ${FONT}`;
  context.textBaseline = "top";
  lines.forEach((line, i) => context.fillText(line, MARGIN, height + 2 * MARGIN + i * LINE));
  return canvas;
}

// What XML cannot hold, however it is written.
const CONTROL = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g;

export const escaped = (text: string): string =>
  text.replace(CONTROL, "").replace(/[&<>"]/g, (letter) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[letter]!);

export function svg(body: string, width: number, height: number, caption: Caption, theme: Theme): string {
  const across = Math.max(width, 360);
  const lines = wrapped(caption, across);
  const [w, h] = [across + 2 * MARGIN, height + 3 * MARGIN + lines.length * LINE];
  const colours = palette(theme);
  const told = lines
    .map((line, i) => `<text x="${MARGIN}" y="${height + 2 * MARGIN + i * LINE + 10}" fill="${colours.muted}" font-size="11">${escaped(line)}</text>`)
    .join("");
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${w} ${h}" width="${w}" height="${h}" font-family="${escaped(FONT)}">` +
    `<title>${escaped(caption[0] ?? "")}</title><desc>${escaped(caption.join("\n"))}</desc>` +
    `<rect width="${w}" height="${h}" fill="${colours.panel}"/>` +
    `<g transform="translate(${MARGIN} ${MARGIN})">${body}</g>${told}</svg>\n`
  );
}

export function saveSvg(body: string, width: number, height: number, caption: Caption, name: string, theme: Theme): void {
  download(new Blob([svg(body, width, height, caption, theme)], { type: "image/svg+xml" }), `${fileName(name)}.svg`);
}

const LOOKS = ["fill", "stroke", "stroke-width", "stroke-dasharray", "font-size", "font-weight", "text-anchor", "opacity"];
const OF_THE_PAGE = ["class", "style", "tabindex", "role", "aria-label", "aria-pressed", "data-role", "data-part", "data-testid"];

/** An SVG of the page with its colours written out, for a file takes no style sheet along; without what is not seen. */
export function asSeen(picture: SVGSVGElement): string {
  const copy = picture.cloneNode(true) as SVGSVGElement;
  const [from, to] = [picture.querySelectorAll("*"), copy.querySelectorAll("*")];
  from.forEach((element, i) => {
    const style = getComputedStyle(element);
    for (const name of LOOKS) to[i].setAttribute(name, style.getPropertyValue(name));
  });
  copy.querySelectorAll(".hit").forEach((element) => element.remove());
  for (const element of copy.querySelectorAll("*")) for (const name of OF_THE_PAGE) element.removeAttribute(name);
  // Not innerHTML, which is HTML and may have names that XML does not know, as &nbsp;.
  const xml = new XMLSerializer();
  return Array.from(copy.childNodes, (node) => xml.serializeToString(node)).join("").replace(CONTROL, "");
}

const quoted = (text: string): string => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

const plain = (value: number): string =>
  Number.isNaN(value) ? "nan" : value === Infinity ? "inf" : value === -Infinity ? "-inf" : String(value);

/** A float32 as the shortest text that reads back as the same float32. */
export function shortest(value: number): string {
  for (let digits = 6; digits <= 9; digits++) {
    const text = value.toPrecision(digits);
    if (Math.fround(Number(text)) === value) return plain(Number(text));
  }
  return plain(value);
}

export function csv(tensor: Tensor, rows: readonly string[], columns: readonly string[], caption: Caption): string {
  const [down, across] = tensor.shape;
  const lines = caption.map((line) => `# ${line.replaceAll("\n", " ")}`);
  lines.push(["", ...Array.from({ length: across }, (_, j) => quoted(columns[j] ?? String(j)))].join(","));
  for (let i = 0; i < down; i++) {
    const numbers = Array.from({ length: across }, (_, j) => shortest(tensor.data[i * across + j]));
    lines.push([quoted(rows[i] ?? String(i)), ...numbers].join(","));
  }
  return lines.join("\n") + "\n";
}

export function saveCsv(tensor: Tensor, rows: readonly string[], columns: readonly string[], caption: Caption, name: string) {
  download(new Blob([csv(tensor, rows, columns, caption)], { type: "text/csv" }), `${fileName(name)}.csv`);
}

export function npy(tensor: Tensor): Uint8Array<ArrayBuffer> {
  const shape = tensor.shape.length === 1 ? `${tensor.shape[0]},` : tensor.shape.join(", ");
  const said = `{'descr': '<f4', 'fortran_order': False, 'shape': (${shape}), }`;
  // Magic, version and length take 10 bytes; the whole header is a multiple of 64 and ends with a line break.
  const length = Math.ceil((10 + said.length + 1) / 64) * 64 - 10;
  const bytes = new Uint8Array(10 + length + 4 * tensor.data.length);
  bytes.set([0x93, ...new TextEncoder().encode("NUMPY"), 1, 0, length & 255, length >> 8]);
  bytes.set(new TextEncoder().encode(said.padEnd(length - 1) + "\n"), 10);
  const view = new DataView(bytes.buffer, 10 + length);
  tensor.data.forEach((value, i) => view.setFloat32(4 * i, value, true));
  return bytes;
}

export function saveNpy(tensor: Tensor, name: string): void {
  download(new Blob([npy(tensor)], { type: "application/octet-stream" }), `${fileName(name)}.npy`);
}
