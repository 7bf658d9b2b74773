// The numbers of a matrix as colours: levels (places in a colour map) and pictures (levels as a cached bitmap). No framework.
//
//   levels(tensor, shading, hidden?)     one number a cell: 0…255, HIDDEN or NOT_A_NUMBER
//   pooled(levels, …)                    fewer rows and columns, each the strongest of what it stands for
//   picture(…)                           a cached ImageBitmap, one pixel a cell

import type { Tensor } from "../api/tensor";
import { palette, pixel, table, type MapName, type Theme } from "./colour";

export interface Shading {
  map: MapName;
  scale: "linear" | "log";
  normalise: "global" | "row";
  /** What the strongest colour stands for, where several pictures share one; else the tensor's own. */
  high?: number;
}

export interface MatrixSpec {
  tensor: Tensor;
  shading: Shading;
  rows: readonly string[];
  columns: readonly string[];
  /** Cells as high as wide. */
  square: boolean;
  /** 1 where a mask hides the cell. */
  hidden?: Uint8Array | null;
}

export const HIDDEN = 256;
export const NOT_A_NUMBER = 257;
/** How far down a logarithmic scale goes. */
export const DECADES = 4;

// ---------------------------------------------------------------------------------------------------- levels

/** The numbers that the ends of the colour map stand for. */
export function span(tensor: Tensor, { map, high }: Shading): [number, number] {
  const top = high ?? Math.max(tensor.high, map === "diverging" ? -tensor.low : -Infinity);
  if (map === "diverging") return [-top || 0, top];
  return [Math.min(0, tensor.low), top];
}

/** 0…1 along the colour map. */
export function shade(value: number, low: number, high: number, map: MapName, scale: "linear" | "log"): number {
  const most = Math.max(Math.abs(low), Math.abs(high)) || 1;
  if (scale === "log") {
    const part = value === 0 ? 0 : Math.max(0, 1 + Math.log10(Math.abs(value) / most) / DECADES);
    return map === "diverging" ? 0.5 + 0.5 * Math.sign(value) * part : value > 0 ? part : 0;
  }
  return high === low ? (map === "diverging" ? 0.5 : 0) : (value - low) / (high - low);
}

const level = (t: number): number => Math.min(255, Math.max(0, Math.round(255 * t)));

export function levels(tensor: Tensor, shading: Shading, hidden?: Uint8Array | null): Uint16Array {
  const columns = tensor.shape[tensor.shape.length - 1];
  const { map, scale, normalise } = shading;
  const made = new Uint16Array(tensor.size);
  const [low, high] = span(tensor, shading);
  if (tensor.codes && normalise === "global") {
    // At most 256 different numbers: each is shaded once.
    const codes = tensor.codes;
    const least = tensor.encoding === "sqrt8" ? 0 : -128;
    const known = new Uint16Array(256);
    for (let i = 0; i < 256; i++) {
      const code = i + least;
      const value = tensor.encoding === "sqrt8" ? (code / 255) ** 2 * tensor.high : (code / 127) * tensor.high;
      known[i] = level(shade(value, low, high, map, scale));
    }
    for (let i = 0; i < codes.length; i++) made[i] = known[codes[i] - least];
  } else {
    const data = tensor.data;
    for (let from = 0; from < data.length; from += columns) {
      let [bottom, top] = [low, high];
      if (normalise === "row") [bottom, top] = rowSpan(data, from, from + columns, map);
      for (let i = from; i < from + columns; i++) {
        const value = data[i];
        if (Number.isFinite(value)) made[i] = level(shade(value, bottom, top, map, scale));
        else made[i] = value === -Infinity ? HIDDEN : value === Infinity ? 255 : NOT_A_NUMBER;
      }
    }
  }
  if (hidden) for (let i = 0; i < made.length; i++) if (hidden[i]) made[i] = HIDDEN;
  return made;
}

function rowSpan(data: Float32Array, from: number, to: number, map: MapName): [number, number] {
  let [low, high] = [0, 0];
  for (let i = from; i < to; i++) {
    if (!Number.isFinite(data[i])) continue;
    low = Math.min(low, data[i]);
    high = Math.max(high, data[i]);
  }
  const most = Math.max(-low, high);
  return map === "diverging" ? [-most, most] : [low, high];
}

/** Each of the fewer cells shows the strongest of those it stands for; one that is no number must not be lost. */
export function pooled(
  made: Uint16Array,
  rows: number,
  columns: number,
  down: number,
  across: number,
  map: MapName,
): Uint16Array {
  const found = new Uint16Array(down * across).fill(HIDDEN);
  const strength = (value: number): number =>
    value === NOT_A_NUMBER ? 1000 : value === HIDDEN ? -1 : map === "diverging" ? Math.abs(value - 127.5) : value;
  const to = Uint16Array.from({ length: columns }, (_, j) => Math.floor((j * across) / columns));
  for (let i = 0; i < rows; i++) {
    const line = Math.floor((i * down) / rows) * across;
    for (let j = 0; j < columns; j++) {
      const place = line + to[j];
      const value = made[i * columns + j];
      if (strength(value) > strength(found[place])) found[place] = value;
    }
  }
  return found;
}

// ---------------------------------------------------------------------------------------------------- pictures

const CAPACITY = 48 * 1024 * 1024;
const pictures = new Map<string, ImageBitmap>();
let kept = 0;

function colours(map: MapName, theme: Theme): Uint32Array {
  const all = new Uint32Array(258);
  all.set(table(map, theme));
  const { hidden, nan } = palette(theme);
  all[HIDDEN] = pixel(hidden);
  all[NOT_A_NUMBER] = pixel(nan);
  return all;
}

const keyOf = ({ tensor, shading, hidden }: MatrixSpec, theme: Theme): string =>
  [tensor.key, tensor.encoding, shading.map, shading.scale, shading.normalise, shading.high ?? "", theme, hidden ? numbered(hidden) : ""].join(" ");

// Masks have no address; equal arrays are told apart by who they are.
const masks = new WeakMap<Uint8Array, number>();
let maskCount = 0;

function numbered(mask: Uint8Array): number {
  if (!masks.has(mask)) masks.set(mask, ++maskCount);
  return masks.get(mask)!;
}

/** At most so many rows and columns; kept, so that a click back costs nothing. */
export function picture(spec: MatrixSpec, down: number, across: number, theme: Theme): ImageBitmap {
  const [rows, columns] = spec.tensor.shape;
  down = Math.max(1, Math.min(rows, Math.floor(down)));
  across = Math.max(1, Math.min(columns, Math.floor(across)));
  const key = `${keyOf(spec, theme)} ${down} ${across}`;
  const found = pictures.get(key);
  if (found) {
    pictures.delete(key);
    pictures.set(key, found);
    return found;
  }
  let made = levels(spec.tensor, spec.shading, spec.hidden);
  if (down < rows || across < columns) made = pooled(made, rows, columns, down, across, spec.shading.map);
  const all = colours(spec.shading.map, theme);
  const image = new ImageData(across, down);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < made.length; i++) pixels[i] = all[made[i]];
  const canvas = new OffscreenCanvas(across, down);
  canvas.getContext("2d")!.putImageData(image, 0, 0);
  const bitmap = canvas.transferToImageBitmap();
  pictures.set(key, bitmap);
  kept += 4 * down * across;
  for (const [oldest, picture] of pictures) {
    if (kept <= CAPACITY || oldest === key) break;
    kept -= 4 * picture.width * picture.height;
    picture.close();
    pictures.delete(oldest);
  }
  return bitmap;
}
