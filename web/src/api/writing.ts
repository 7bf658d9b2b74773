// What the server tells of writing: a text so far, a beam search, writing under edits, heads taken away.

import { getJson, getTensor, postJson, query } from "./client";
import { getLines, postLines } from "./lines";
import type { Edit, Pass, PassRequest, Tokens } from "./types";

export interface Slots {
  layer: number;
  /** How far the layer looks; null is everywhere. */
  window: number | null;
  /** Room. */
  slots: number;
  /** That stand in its slots, slot by slot. */
  positions: number[];
  /** That a window has overwritten. */
  dropped: number;
  /** Positions of the source that cross-attention keeps. */
  source: number | null;
  nbytes: number;
}

export interface Entry {
  id: number;
  piece: string;
  logit: number;
  probability: number;
}

export interface Draft {
  id: string;
  model: string;
  hash: string;
  source: Tokens | null;
  prompt: Tokens;
  written: Tokens;
  text: string;
  ended: boolean;
  ends: number[];
  never: number[];
  /** Tokens that there is still room for. */
  left: number;
  how: "prefill" | "step" | "rewind";
  fed: number;
  seconds: number;
  cache: Slots[];
  check: { difference: number; id: number; piece: string };
  vocabulary: number;
  entries: Entry[];
  entropy: number;
}

export interface BeamNode {
  parent: number;
  token: number;
  piece: string;
  length: number;
  log_probability: number;
  total: number;
  score: number;
  fate: "kept" | "finished" | "dropped";
  beam: number | null;
}

export interface BeamTree {
  nodes: BeamNode[];
  found: { tokens: number[]; text: string; score: number; leaf: number }[];
}

export interface BeamSettings {
  beams: number;
  max_new_tokens: number;
  penalty: "wu" | "power";
  alpha: number;
}

export interface Written {
  id: number;
  piece: string;
  text: string;
  ended: boolean;
}

export type Swept = { total: number; before: number } | { done: number; site: string; head: number; effect: number };

const under = (id: string): string => `/api/writing/${encodeURIComponent(id)}`;

export const writing = {
  draft: (text: string, written: readonly number[], model: string, signal?: AbortSignal) =>
    postJson<Draft>("/api/writing", { model, text, written }, signal),

  /** Of the whole vocabulary, exact. */
  logits: async (id: string, signal?: AbortSignal) => (await getTensor(`${under(id)}/logits`, "f32", signal)).data,

  find: (id: string, piece: string, signal?: AbortSignal) => getJson<Entry[]>(`${under(id)}/find${query({ piece })}`, signal),

  /** [heads, slots in use, coordinates], from the cache itself. */
  cache: (id: string, layer: number, what: string, signal?: AbortSignal) =>
    getTensor(`${under(id)}/cache${query({ layer, what })}`, "f32", signal),

  beams: (text: string, written: readonly number[], model: string, settings: BeamSettings, signal?: AbortSignal) =>
    postJson<BeamTree>("/api/writing/beams", { model, text, written, ...settings }, signal),

  /** Greedy, under edits, token by token. */
  go: (asked: Pick<PassRequest, "model" | "positions"> & { text: string }, edits: readonly Edit[], max_new_tokens: number, signal?: AbortSignal) =>
    postLines<Written>("/api/writing/continue", { ...asked, edits, max_new_tokens }, signal),
};

export const whatif = {
  /** What a pass was asked with, whatever is pinned by now. */
  asked: (pass: Pass): PassRequest => ({ ...pass.asked, model: pass.model, text: pass.asked.text ?? "" }),

  plain: (pass: Pass): PassRequest => ({ ...whatif.asked(pass), edits: undefined }),

  /** [states, positions]: how far each state of a tower's residual stream is from that of another pass. */
  shift: (pass: string, minus: string, prefix: string, signal?: AbortSignal) =>
    getTensor(`/api/passes/${encodeURIComponent(pass)}/shift${query({ minus, prefix })}`, "f32", signal),

  /** Every head taken away in turn; effects are on the log-probability of the answer. */
  sweep: (pass: string, position: number, token: number, by: "zero" | "mean", signal?: AbortSignal) =>
    getLines<Swept>(`/api/passes/${encodeURIComponent(pass)}/sweep${query({ position, token, by })}`, signal),
};
