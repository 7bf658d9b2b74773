// What the view that compares asks, and how it lines two passes up. No framework.

import { api, ApiError } from "../api/client";
import type { Num, Pass, PassRequest, SessionInfo } from "../api/types";
import { toNumber } from "../render/numbers";

export interface Partings {
  profile: { name: string; distance: Num; parts: boolean }[];
  /** The first that parts beyond rounding. */
  first: string | null;
  unmatched: string[];
}

export interface Verdict {
  equal: boolean;
  told: string;
}

/** What A can be compared with. */
export interface Choice {
  /** A model's key, or "unedited": the same model without the edits. */
  key: string;
  title: string;
}

export const UNEDITED = "unedited";

export function choices(info: SessionInfo | null, pass: Pass | null): Choice[] {
  if (!info || !pass) return [];
  const models = info.models.filter((model) => model.key !== pass.model).map(({ key, name }) => ({ key, title: name }));
  const known = new Set(info.models.map((model) => model.key));
  const steps = info.checkpoints
    .filter((key) => key !== pass.model && !known.has(key))
    .map((key) => ({ key, title: `step ${Number(key.slice(5)).toLocaleString("en")}` }));
  const { edits, padding, positions } = pass.asked;
  const isEdited = Boolean(edits?.length || padding || (positions && positions !== "own"));
  const bare = isEdited ? [{ key: UNEDITED, title: "the same without the edits" }] : [];
  return [...bare, ...models, ...steps];
}

export interface Pair {
  a: Pass;
  b: Pass;
  /** Whether both read the same tokens, so that place for place can be compared. */
  aligned: boolean;
}

const alike = (x: readonly string[] | undefined, y: readonly string[] | undefined): boolean =>
  x === y || (x?.length === y?.length && Boolean(x?.every((piece, i) => piece === y![i])));

/**
 * B's pass for A's input. Ids mean the same only to models of one vocabulary, which shows when both cut the text alike:
 * then B is given A's tokens, the written ones too, whatever it would write itself.
 */
export async function paired(a: Pass, key: string, signal: AbortSignal): Promise<Pair> {
  const { asked } = a;
  if (key === UNEDITED) {
    const bare: PassRequest = asked.padding
      ? { model: a.model, text: asked.text ?? "", target: asked.target, edits: [] }
      : { model: a.model, text: "", ids: idsOf(a), edits: [] };
    return together(a, await api.pass(bare, signal));
  }
  const b = await asText(asked, key, signal);
  if (asked.padding || !alike(a.reads.pieces, b.reads.pieces) || Boolean(a.writes) !== Boolean(b.writes)) {
    return together(a, b);
  }
  try {
    return together(a, await api.pass({ ...asked, text: "", target: undefined, model: key, ids: idsOf(a) }, signal));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    return together(a, b); // an edit of what B does not have, or ids that it does not know
  }
}

const together = (a: Pass, b: Pass): Pair => ({
  a,
  b,
  aligned: alike(a.reads.pieces, b.reads.pieces) && alike(a.writes?.pieces, b.writes?.pieces),
});

const idsOf = (pass: Pass) => ({ reads: pass.reads.ids, ...(pass.writes ? { writes: pass.writes.ids } : {}) });

/** What A was asked, as far as B can be asked it: edits may be of tensors, a target of a family, that B is not. */
async function asText(asked: Partial<PassRequest>, model: string, signal: AbortSignal): Promise<Pass> {
  const text = asked.text ?? "";
  const tries: PassRequest[] = [{ ...asked, model, text }, { ...asked, model, text, edits: [] }, { model, text, edits: [] }];
  for (const one of tries.slice(0, -1)) {
    try {
      return await api.pass(one, signal);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
    }
  }
  return api.pass(tries[tries.length - 1], signal);
}

// ---- one tensor of both

export interface Shown {
  name: string;
  at: (number | ":" | [number, number])[];
  rows: string[];
  columns: string[];
  rowTitle: string;
  columnTitle: string;
  signed: boolean;
  /** Columns that are left out on the right. */
  more: number;
}

const MOST_COLUMNS = 4096;

/** A tensor as a matrix of one head or of all positions; null for what is none. */
export function asMatrix(pass: Pass, name: string, head: number): Shown | null {
  const shape = pass.tensors.find((tensor) => tensor.name === name)?.shape;
  if (!shape || shape.length < 2 || shape.length > 4) return null;
  const isMap = /\.(weights|scores|mask)$/.test(name);
  const isSource = name.includes("cross_attention") && /\.(k|v|key_norm\.out|k_projected)$/.test(name);
  const own = !pass.writes || name.startsWith("encoder.") || isSource ? pass.reads : pass.writes;
  const [height, width] = shape.length === 2 ? [1, shape[1]] : shape.slice(-2);
  const keys = name.includes("cross_attention") ? pass.reads : own;
  const shown = Math.min(width, MOST_COLUMNS);
  const across: Shown["at"][number] = shown < width ? [0, shown] : ":";
  const numbered = (size: number) => Array.from({ length: size }, (_, i) => String(i));
  const at: Shown["at"] =
    shape.length === 4 ? [0, Math.min(head, shape[1] - 1), ":", across] : shape.length === 3 ? [0, ":", across] : [0, across];
  return {
    name,
    at,
    rows: own.pieces.length === height ? own.pieces : numbered(height),
    columns: isMap && keys.pieces.length === width ? keys.pieces : numbered(shown),
    rowTitle: isMap ? "query" : "position",
    columnTitle: isMap ? "key" : name === "logits" ? "token" : "unit",
    signed: !/\.(weights|mask)$/.test(name),
    more: width - shown,
  };
}

/** The height of a bar: 0 where nothing differs, 1 where the difference is as large as the numbers themselves. */
export function height(distance: Num): number {
  const value = toNumber(distance);
  if (value === 0) return 0;
  if (!Number.isFinite(value)) return 1;
  return Math.min(1, Math.max(0.04, (Math.log10(value) + 9) / 9));
}
