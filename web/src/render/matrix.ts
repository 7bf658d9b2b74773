// A matrix on canvas: painting with level of detail by pixels per cell. Below 2 the strongest cell of each pixel is shown, from
// 14 on numbers are written. No framework, no events: `grid.ts` has those; `levels.ts` has the colours of cells.
//
//   layout(spec, width, height, zoom)    sizes of labels and cells
//   paint(context, spec, layout, window) the whole of it, or what a window shows
//   svgOf(spec, layout)                  the same for a file

import { css, currentTheme, FONT, ink, palette, type Theme } from "./colour";
import { HIDDEN, levels, NOT_A_NUMBER, picture, type MatrixSpec } from "./levels";
import { brief, piece } from "./numbers";
import { escaped } from "./save";

// ---------------------------------------------------------------------------------------------------- layout

export interface Layout {
  /** Room for the labels of rows and of columns. */
  left: number;
  top: number;
  /** One cell. */
  across: number;
  down: number;
  /** Labels of columns stand upright. */
  upright: boolean;
  width: number;
  height: number;
}

const LABEL = 12;
const LONGEST = 116;
/** Pixels per cell from which numbers are written, and below which several cells share a spot of that size. */
export const NUMBERS_FROM = 14;
const POOLED_BELOW = 2;

let measuring: CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D | null = null;

function widest(labels: readonly string[]): number {
  measuring ??= new OffscreenCanvas(1, 1).getContext("2d")!;
  measuring.font = `${LABEL}px ${FONT}`;
  let most = 0;
  for (const label of labels) most = Math.max(most, measuring.measureText(piece(label)).width);
  return Math.min(LONGEST, Math.ceil(most));
}

/** Zoom is pixels per cell; 0 fits the room. */
export function layout(spec: MatrixSpec, width: number, height: number, zoom: number): Layout {
  const [rows, columns] = spec.tensor.shape;
  const [rowRoom, columnRoom] = [widest(spec.rows), widest(spec.columns)];
  const number = 8 * String(Math.max(rows, columns)).length + 8;
  const left = Math.max(number, Math.min(rowRoom, width / 4)) + 10;
  const room = Math.max(40, width - left - 2);
  let across = zoom || Math.min(44, room / columns);
  const upright = columnRoom > across - 1 && across >= LABEL;
  const top = (across < LABEL ? 16 : upright ? columnRoom : LABEL + 2) + 8;
  if (!zoom && spec.square) across = Math.min(across, Math.max(100, height - top) / rows);
  const down = spec.square ? across : zoom ? Math.max(18, zoom) : Math.min(28, Math.max(18, (height - top) / rows));
  return { left, top, across, down, upright, width: left + across * columns + 1, height: top + down * rows + 1 };
}

/** The part that is seen: where it begins in the picture, and how large it is. */
export interface Window {
  x: number;
  y: number;
  width: number;
  height: number;
}

/** Labels at least this far apart. */
const tick = (size: number): number => [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((step) => step * size >= 24) ?? 2000;

export function paint(context: CanvasRenderingContext2D, spec: MatrixSpec, place: Layout, seen: Window): void {
  const [rows, columns] = spec.tensor.shape;
  const { left, top, across, down } = place;
  const theme = currentTheme();
  const colour = palette(theme);
  // Rows and columns of which something is seen.
  const firstRow = Math.max(0, Math.floor(seen.y / down));
  const lastRow = Math.min(rows, Math.ceil((seen.y + seen.height - top) / down));
  const firstColumn = Math.max(0, Math.floor(seen.x / across));
  const lastColumn = Math.min(columns, Math.ceil((seen.x + seen.width - left) / across));
  if (lastRow <= firstRow || lastColumn <= firstColumn) return;

  context.save();
  context.beginPath();
  context.rect(left, top, seen.width - left, seen.height - top);
  context.clip();
  context.translate(left - seen.x, top - seen.y);
  const pooledDown = down < POOLED_BELOW ? (rows * down) / POOLED_BELOW : rows;
  const pooledAcross = across < POOLED_BELOW ? (columns * across) / POOLED_BELOW : columns;
  const image = picture(spec, pooledDown, pooledAcross, theme);
  context.imageSmoothingEnabled = false;
  context.drawImage(image, 0, 0, columns * across, rows * down);
  if (across >= 7 && down >= 7) {
    lines(context, firstRow, lastRow, firstColumn, lastColumn, place, colour.panel);
    marks(context, spec, firstRow, lastRow, firstColumn, lastColumn, place, theme);
  }
  context.restore();
  labels(context, spec, place, seen, [firstRow, lastRow], [firstColumn, lastColumn], theme);
}

function lines(
  context: CanvasRenderingContext2D,
  firstRow: number,
  lastRow: number,
  firstColumn: number,
  lastColumn: number,
  { across, down }: Layout,
  colour: string,
): void {
  context.strokeStyle = colour;
  context.lineWidth = across >= 12 ? 1 : 0.5;
  context.beginPath();
  for (let i = firstRow; i <= lastRow; i++) {
    context.moveTo(firstColumn * across, i * down);
    context.lineTo(lastColumn * across, i * down);
  }
  for (let j = firstColumn; j <= lastColumn; j++) {
    context.moveTo(j * across, firstRow * down);
    context.lineTo(j * across, lastRow * down);
  }
  context.stroke();
}

/** Numbers, and strokes through what a mask hides. */
function marks(
  context: CanvasRenderingContext2D,
  spec: MatrixSpec,
  firstRow: number,
  lastRow: number,
  firstColumn: number,
  lastColumn: number,
  { across, down }: Layout,
  theme: Theme,
): void {
  const columns = spec.tensor.shape[1];
  const made = levels(spec.tensor, spec.shading, spec.hidden);
  const writes = spec.tensor.isExact && across >= NUMBERS_FROM && down >= NUMBERS_FROM;
  const size = Math.max(8, Math.min(12, Math.floor(across / 3.1)));
  const colour = palette(theme);
  context.font = `${size}px ${FONT}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.strokeStyle = colour.muted;
  context.globalAlpha = 0.45;
  context.lineWidth = 1;
  context.beginPath();
  for (let i = firstRow; i < lastRow; i++) {
    for (let j = firstColumn; j < lastColumn; j++) {
      if (made[i * columns + j] !== HIDDEN) continue;
      const side = Math.min(across, down) / 4;
      const [x, y] = [(j + 0.5) * across, (i + 0.5) * down];
      context.moveTo(x - side, y + side);
      context.lineTo(x + side, y - side);
    }
  }
  context.stroke();
  context.globalAlpha = 1;
  if (!writes) return;
  const data = spec.tensor.data;
  for (let i = firstRow; i < lastRow; i++) {
    for (let j = firstColumn; j < lastColumn; j++) {
      const at = made[i * columns + j];
      if (at === HIDDEN || data[i * columns + j] === 0) continue; // an empty cell is 0, exactly
      context.fillStyle = at > 255 ? "#fff" : ink(spec.shading.map, theme, at / 255);
      context.fillText(brief(data[i * columns + j]), (j + 0.5) * across, (i + 0.5) * down, across - 2);
    }
  }
}

function labels(
  context: CanvasRenderingContext2D,
  spec: MatrixSpec,
  { left, top, across, down, upright }: Layout,
  seen: Window,
  [firstRow, lastRow]: [number, number],
  [firstColumn, lastColumn]: [number, number],
  theme: Theme,
): void {
  const colour = palette(theme);
  context.fillStyle = colour.muted;
  context.font = `${LABEL}px ${FONT}`;
  context.textBaseline = "middle";
  context.textAlign = "right";
  const words = down >= LABEL;
  const step = words ? 1 : tick(down);
  for (let i = Math.ceil(firstRow / step) * step; i < lastRow; i += step) {
    const y = top - seen.y + (i + 0.5) * down;
    if (y < top + (words ? 4 : 0)) continue;
    context.fillText(words ? cut(context, spec.rows[i] ?? String(i), left - 10) : String(i), left - 6, y);
  }
  const columnWords = across >= LABEL;
  const stride = columnWords ? 1 : tick(across);
  for (let j = Math.ceil(firstColumn / stride) * stride; j < lastColumn; j += stride) {
    const x = left - seen.x + (j + 0.5) * across;
    if (x < left) continue;
    columnLabel(context, columnWords ? (spec.columns[j] ?? String(j)) : String(j), x, top, columnWords && upright);
  }
}

export function columnLabel(context: CanvasRenderingContext2D, label: string, x: number, top: number, upright: boolean) {
  context.save();
  context.translate(x, top - 6);
  if (upright) context.rotate(-Math.PI / 2);
  context.textAlign = upright ? "left" : "center";
  context.textBaseline = upright ? "middle" : "alphabetic";
  context.fillText(upright ? cut(context, label, top - 8) : piece(label), 0, 0);
  context.restore();
}

/** As much of a label as there is room for. */
export function cut(context: CanvasRenderingContext2D, label: string, room: number): string {
  let text = piece(label);
  if (context.measureText(text).width <= room) return text;
  while (text.length > 1 && context.measureText(`${text}…`).width > room) text = text.slice(0, -1);
  return `${text}…`;
}

// ---------------------------------------------------------------------------------------------------- a file

/** Cells are rectangles as long as an editor can open the file; more of them are one picture. */
const MOST_RECTANGLES = 64 * 64;

export function svgOf(spec: MatrixSpec, place: Layout): string {
  const [rows, columns] = spec.tensor.shape;
  const { left, top, across, down, upright } = place;
  const theme = currentTheme();
  const { map } = spec.shading;
  const colour = palette(theme);
  const body: string[] = [];
  const writes = spec.tensor.isExact && across >= NUMBERS_FROM && down >= NUMBERS_FROM;
  if (rows * columns <= MOST_RECTANGLES) {
    const made = levels(spec.tensor, spec.shading, spec.hidden);
    made.forEach((at, k) => {
      const [x, y] = [left + (k % columns) * across, top + Math.floor(k / columns) * down];
      const fill = at === HIDDEN ? colour.hidden : at === NOT_A_NUMBER ? colour.nan : css(map, theme, at / 255);
      body.push(`<rect x="${x.toFixed(2)}" y="${y.toFixed(2)}" width="${across.toFixed(2)}" height="${down.toFixed(2)}" fill="${fill}"/>`);
      if (!writes || at > 255 || spec.tensor.data[k] === 0) return;
      body.push(
        `<text x="${(x + across / 2).toFixed(2)}" y="${(y + down / 2 + 3).toFixed(2)}" text-anchor="middle" font-size="9" ` +
          `fill="${ink(map, theme, at / 255)}">${brief(spec.tensor.data[k])}</text>`,
      );
    });
  } else {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [columns, rows];
    canvas.getContext("2d")!.drawImage(picture(spec, rows, columns, theme), 0, 0);
    body.push(
      `<image x="${left}" y="${top}" width="${columns * across}" height="${rows * down}" preserveAspectRatio="none" ` +
        `style="image-rendering:pixelated" href="${canvas.toDataURL("image/png")}"/>`,
    );
  }
  const text = (label: string, attributes: string) =>
    body.push(`<text ${attributes} font-size="${LABEL}" fill="${colour.muted}">${escaped(piece(label))}</text>`);
  const step = down >= LABEL ? 1 : tick(down);
  for (let i = 0; i < rows; i += step) {
    const label = step === 1 ? (spec.rows[i] ?? String(i)) : String(i);
    text(label, `x="${left - 6}" y="${top + (i + 0.5) * down + 4}" text-anchor="end"`);
  }
  const stride = across >= LABEL ? 1 : tick(across);
  for (let j = 0; j < columns; j += stride) {
    const label = stride === 1 ? (spec.columns[j] ?? String(j)) : String(j);
    const [x, y] = [left + (j + 0.5) * across, top - 6];
    if (stride === 1 && upright) text(label, `transform="translate(${x + 4} ${y}) rotate(-90)"`);
    else text(label, `x="${x}" y="${y}" text-anchor="middle"`);
  }
  return body.join("");
}
