// What Matrix says about its cells: exact numbers, addresses, words, ranks. No framework.

import { api, type Slice } from "../api/client";
import type { Tensor } from "../api/tensor";
import type { Place } from "../render/grid";
import { piece, printed } from "../render/numbers";

/** What is drawn: numbers with the labels that belong to them, and where they are from. */
export interface Shown {
  tensor: Tensor;
  slice: Slice | null;
  rows: readonly string[];
  columns: readonly string[];
}

/** A slice that leaves one axis open is one row. */
export function flat(found: Tensor): Tensor {
  if (found.shape.length === 2) return found;
  const columns = found.shape[found.shape.length - 1] ?? 1;
  return found.reshaped([columns ? found.size / columns : 0, columns]);
}

// By what is shown, so that the numbers of one matrix are never taken for those of the next.
const asked = new WeakMap<Shown, Promise<Tensor>>();
const found = new WeakMap<Shown, Tensor>();

/** The exact numbers as far as they are here: a large matrix was fetched in eight bits. */
export const knownOf = (shown: Shown): Tensor | null =>
  shown.tensor.isExact || !shown.slice ? shown.tensor : (found.get(shown) ?? null);

/** The exact numbers; of a large matrix they are fetched once somebody asks, and asked for again after a failure. */
export function exactOf(shown: Shown): Promise<Tensor> {
  const { slice } = shown;
  if (shown.tensor.isExact || !slice) return Promise.resolve(shown.tensor);
  const under = asked.get(shown);
  if (under) return under;
  const answer = api.tensor(slice, "f32").then(
    (fetched) => {
      const exact = flat(fetched);
      found.set(shown, exact);
      return exact;
    },
    (failure: unknown) => {
      asked.delete(shown);
      throw failure;
    },
  );
  asked.set(shown, answer);
  return answer;
}

export const numberAt = (tensor: Tensor, { row, column }: Place): number => tensor.data[row * tensor.shape[1] + column];

/** Where a cell stands in the whole tensor; null for numbers of the page's own. */
export function indexOf(slice: Slice | null, { row, column }: Place): number[] | null {
  if (!slice) return null;
  const open = slice.at.filter((entry) => typeof entry !== "number").length;
  const places = open === 1 ? [column] : [row, column];
  let next = 0;
  return slice.at.map((entry) => {
    if (typeof entry === "number") return entry;
    const place = places[next++] ?? 0;
    return entry === ":" ? place : entry[0] + place;
  });
}

export const named = (labels: readonly string[], index: number, what: string): string =>
  labels[index] === undefined || labels[index] === String(index) ? `${what} ${index}` : `${what} ${index} ‘${piece(labels[index])}’`;

/** "query 3 ‘sat’, key 1 ‘cat’: 0.31"; "…" while the number is on its way. */
export function described(shown: Shown, { row, column }: Place, titles: readonly [string, string], value: number | null): string {
  const parts = [row >= 0 && named(shown.rows, row, titles[0]), column >= 0 && named(shown.columns, column, titles[1])];
  const where = parts.filter(Boolean).join(", ");
  if (row < 0 || column < 0) return where;
  return `${where}: ${value === null ? "…" : printed(value, 4)}`;
}

/** ", rank 1 of 12": of the row, by size. */
export function ranked(tensor: Tensor, { row, column }: Place): string {
  const width = tensor.shape[1];
  const value = numberAt(tensor, { row, column });
  if (!isFinite(value)) return "";
  let larger = 0;
  for (let j = 0; j < width; j++) if (tensor.data[row * width + j] > value) larger++;
  return `, rank ${larger + 1} of ${width}`;
}

/** The address of the slice, for captions. */
export const addressOf = ({ name, at }: Slice): string =>
  `${name}[${at.map((entry) => (Array.isArray(entry) ? entry.join(":") : entry)).join(", ")}]`;

/** The name of a file: one for each pass and each difference, so that no file takes another's place. */
export const fileOf = (slice: Slice): string =>
  [addressOf(slice), slice.pass, ...(slice.minus ? ["minus", slice.minus] : [])].join(" ");

/** Whether cells occur that have no colour of the map. */
export function oddities(tensor: Tensor | null, hidden: Uint8Array | null): { hidden: boolean; nan: boolean } {
  const found = { hidden: Boolean(hidden?.some(Boolean)), nan: false };
  if (!tensor?.isExact) return found;
  for (const value of tensor.data) {
    if (value === -Infinity) found.hidden = true;
    else if (isNaN(value)) found.nan = true;
  }
  return found;
}
