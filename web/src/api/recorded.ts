// The answers inside a page that was exported as one file, which has no server.
//
//   window.__pellucid__ = {answers, tensors}, written by pellucid.explorer.export
//     answers   under "GET path" or "POST path body": {json} or {octets: base64, headers}. The parameters of a path are
//               sorted and not escaped; a body is JSON with sorted keys and no spaces.
//     tensors   of each pass, by name, whole: {shape, octets: base64 of float32} or, where that was too much,
//               {shape, octets, encoding: "sqrt8" | "sym8", high}. Every part that is asked for is cut out of them.
//
//   isExported()               whether this is such a page
//   recorded(method, path, body)   the answer, or null for none; only where isExported()
//   recordedTensor(path)       a part of a tensor, a difference too, or null

import { decode, type Encoding, Tensor } from "./tensor";

export type Recorded = { json: unknown } | { octets: string; headers: Record<string, string> };

interface Whole {
  shape: number[];
  octets: string;
  encoding?: Encoding;
  high?: number;
}

declare global {
  interface Window {
    __pellucid__?: { answers: Record<string, Recorded>; tensors?: Record<string, Record<string, Whole>> };
  }
}

/** Whether the page is a file of its own, with the answers inside it. */
export const isExported = (): boolean => typeof window !== "undefined" && window.__pellucid__ !== undefined;

export function recorded(method: string, path: string, body?: unknown): Recorded | null {
  const key = `${method} ${sorted(path)}${body === undefined ? "" : ` ${canonical(body)}`}`;
  return window.__pellucid__?.answers[key] ?? null;
}

/** JSON with sorted keys and no spaces: the same text for the same request, whoever writes it. */
export function canonical(value: unknown): string {
  if (value === null || typeof value !== "object") return JSON.stringify(value) ?? "null";
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  const entries = Object.entries(value).filter(([, entry]) => entry !== undefined);
  entries.sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${entries.map(([key, entry]) => `${JSON.stringify(key)}:${canonical(entry)}`).join(",")}}`;
}

function sorted(path: string): string {
  const [bare, search] = path.split("?");
  if (search === undefined) return decodeURIComponent(bare);
  const parameters = [...new URLSearchParams(search)].map(([name, value]) => `${name}=${value}`);
  return `${decodeURIComponent(bare)}?${parameters.sort().join("&")}`;
}

export const bytesOf = (base64: string): ArrayBuffer => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer;

// ---- parts of whole tensors

const opened = new Map<string, Tensor>();

function whole(pass: string, name: string): Tensor | null {
  const key = `${pass} ${name}`;
  const found = opened.get(key);
  if (found) return found;
  const kept = window.__pellucid__?.tensors?.[pass]?.[name];
  if (!kept) return null;
  const made = decode(key, bytesOf(kept.octets), kept.encoding ?? "f32", kept.shape, 0, kept.high ?? 0);
  opened.set(key, made);
  return made;
}

export function recordedTensor(path: string): Tensor | null {
  const found = /^\/api\/passes\/([^/?]+)\/tensor\?(.*)$/.exec(path);
  if (!found) return null;
  const asked = new URLSearchParams(found[2]);
  const [name, minus] = [asked.get("name") ?? "", asked.get("minus")];
  const mine = whole(found[1], name);
  const theirs = minus === null ? null : whole(minus, name);
  if (!mine || (minus !== null && !theirs)) return null;
  // What is kept in eight bits is good for pictures alone; a number of it would be a wrong one.
  if (asked.get("encoding") === "f32" && !(mine.isExact && (theirs?.isExact ?? true))) return null;
  const at = asked.get("at");
  const cut = part(mine, at);
  const encoding = mine.isExact && (theirs?.isExact ?? true) ? "f32" : "sym8";
  if (!theirs) return named(path, encoding, cut.shape, cut.data);
  const other = part(theirs, at);
  if (String(other.shape) !== String(cut.shape)) return null;
  return named(path, encoding, cut.shape, cut.data.map((value, i) => (value === other.data[i] ? 0 : value - other.data[i])));
}

function named(key: string, encoding: Encoding, shape: number[], data: Float32Array): Tensor {
  let [low, high] = [Infinity, -Infinity];
  for (const value of data) {
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return new Tensor(key, shape, encoding, null, data, low <= high ? low : 0, low <= high ? high : 0);
}

/** As the server cuts: for each axis a place, ":" or from:to, separated by commas. */
function part(tensor: Tensor, at: string | null): { shape: number[]; data: Float32Array } {
  const { data } = tensor;
  const shape = [...tensor.shape];
  const axes = (at ?? shape.map(() => ":").join(",")).split(",").map((entry, axis) => {
    const size = shape[axis] ?? 0;
    if (!entry.includes(":")) {
      const place = Number(entry);
      return { from: place < 0 ? place + size : place, to: (place < 0 ? place + size : place) + 1, stays: false };
    }
    const [from, to] = entry.split(":");
    return { from: Number(from || 0), to: Number(to || size), stays: true };
  });
  const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((product, side) => product * side, 1));
  const cut = new Float32Array(axes.reduce((product, { from, to }) => product * (to - from), 1));
  let next = 0;
  const walk = (axis: number, offset: number): void => {
    if (axis === axes.length) {
      cut[next++] = data[offset];
      return;
    }
    for (let i = axes[axis].from; i < axes[axis].to; i++) walk(axis + 1, offset + i * strides[axis]);
  };
  walk(0, 0);
  return { shape: axes.flatMap(({ from, to, stays }) => (stays ? [to - from] : [])), data: cut };
}
