// What the server answers. One place, so that a view never guesses at a field.

/** JSON has no infinities; the server writes them as words. */
export type Num = number | "inf" | "-inf" | "nan";

export type Family = "decoder" | "encoder" | "encoder_decoder";
export type HeadKind = "language" | "masked" | "classification" | "token_classification" | "embedding";

export interface ModelEntry {
  key: string;
  name: string;
  hash: string;
  /** Of training, for a checkpoint of a run. */
  step: number | null;
  family: Family;
  head: HeadKind;
  labels: string[] | null;
  parameters: number;
  /** What it reads; of a model of pictures and of sounds the text of a request is the name of a file. */
  reads: "text" | "picture" | "sound";
  /** Null for a model without tokens. */
  vocabulary: number | null;
}

export interface SessionInfo {
  version: string;
  models: ModelEntry[];
  /** Keys of the run's checkpoints, the first first; each can be asked for as a model. */
  checkpoints: string[];
  training: boolean;
  limits: { tokens: number; [name: string]: number };
  example: { text: string; target: string | null };
}

/** A choice among parts, with its settings. */
export interface Choice {
  kind: string;
  [setting: string]: unknown;
}

export interface Tower {
  /** "" where there is one tower, else "encoder." or "decoder."; begins every tensor name of the tower. */
  prefix: string;
  title: string;
  layers: number;
  causal: boolean;
  /** Whether its blocks also read the encoder. */
  cross: boolean;
  d_model: number;
  num_heads: number;
  num_kv_heads: number;
  head_dim: number;
  /** What products of queries and keys are multiplied with. */
  scale: number;
  softcap: number | null;
  d_ff: number;
  gated: boolean;
  activation: string;
  norm: string;
  epsilon: number;
  qk_norm: boolean;
  placement: "pre" | "post" | "both";
  final_norm: boolean;
  positions: Choice;
  /** How far each layer looks; null is everywhere. */
  windows: (number | null)[];
  front: Choice;
  /** All attentions, in the order of computation. */
  sites: string[];
}

/** Modules that have parameters; "blocks.*" stands for every layer. */
export interface Part {
  name: string;
  parameters: number;
  shapes: Record<string, number[]>;
  [detail: string]: unknown;
}

export interface ModelInfo extends ModelEntry {
  config: Record<string, unknown>;
  towers: Tower[];
  parts: Part[];
  /** Which tables are one: of "source", "target", "output". */
  tie: string[];
}

/** A pass by its id, or by what the same model is to read. */
export type Source = string | { text: string; target?: string | null };

export type Edit =
  | {
      kind: "zero" | "mean" | "scale" | "add" | "replace" | "patch";
      name: string;
      heads?: number[];
      positions?: number[];
      /** On the last axis: of maps the keys. */
      units?: number[];
      value?: number | boolean;
      from?: Source;
      taken?: number[];
    }
  | { kind: "steer"; name: string; positions?: number[]; value?: number; towards: Source; away?: Source }
  | { kind: "swap"; name: string; positions: [number, number] }
  | { kind: "mask"; name: string; causal?: boolean; window?: number }
  | { kind: "skip"; layer: string };

export interface Padding {
  reads?: number;
  writes?: number;
  side?: "left" | "right";
  hidden?: boolean;
}

export interface PassRequest {
  model: string;
  text: string;
  target?: string;
  ids?: { reads: number[]; writes?: number[] };
  padding?: Padding;
  positions?: "own" | "none";
  edits?: Edit[];
}

export interface Tokens {
  ids: number[];
  pieces: string[];
  /** The picture or the sound that the positions stand for. */
  seen?: Seen;
}

/** A picture, or the spectrogram of a sound, as the model reads it, and the grid of positions over it. */
export interface Seen {
  sense: "picture" | "sound";
  png: string;
  height: number;
  width: number;
  rows: number;
  columns: number;
  /** Positions that come first and stand for no part of it. */
  before: number;
  /** Of a sound. */
  seconds: number | null;
}

export interface TensorInfo {
  name: string;
  shape: number[];
  dtype: string;
  formula: string;
  inputs: string[];
  module: string;
  edited: boolean;
}

export interface Pass {
  id: string;
  model: string;
  hash: string;
  /** Of all that decides an answer: weights, settings, tokenizer. */
  identity: string;
  asked: Partial<PassRequest>;
  /** The encoder's tokens, or the only tower's. */
  reads: Tokens;
  /** The decoder's tokens of an encoder–decoder. */
  writes: Tokens | null;
  tensors: TensorInfo[];
  seconds: number;
}

/** Of a tensor's finite numbers. */
export interface Statistics {
  least: Num;
  greatest: Num;
  mean: Num;
  rms: Num;
  nan: number;
  infinite: number;
  /** Of rows that are distributions. */
  entropy: Num | null;
}

export interface Explanation {
  name: string;
  index: number[];
  formula: string;
  inputs: string[];
  terms: { value: Num; factors: { address: string; value: Num }[] }[];
  count: number;
  total: Num;
  rest: Num;
  steps: { name: string; value: Num }[];
  recomputed: Num;
  captured: Num;
  error: Num;
  edited: string[];
  source: { file: string; line: number; text: string };
  /** A program of its own that prints the number. */
  script: string;
}

/** What one head does, in numbers; null where the notion does not apply (distance across two sequences). */
export interface HeadSummary {
  site: string;
  head: number;
  entropy: number;
  distance: number | null;
  previous: number | null;
  sink: number;
  peak: number;
  padding?: number | null;
}

export interface Answers {
  position: number;
  entries: { id: number; piece: string; logit: number; probability: number }[];
  /** The probability of all that are not listed. */
  hidden: number;
  entropy: number;
}

/** The body of every refusal. */
export interface Refusal {
  where: string;
  found: string;
  expected: string;
  hint: string;
}
