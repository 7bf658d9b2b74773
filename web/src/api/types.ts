// What the server answers. One place, so that a view never guesses at a field.

/** JSON has no infinities; the server writes them as words. */
export type Num = number | "inf" | "-inf" | "nan";

export type Family = "decoder" | "encoder" | "encoder_decoder";
export type HeadKind = "language" | "masked" | "classification" | "pooled";

export interface ModelEntry {
  key: string;
  name: string;
  hash: string;
  family: Family;
  head: HeadKind;
  step?: number;
}

export interface SessionInfo {
  version: string;
  models: ModelEntry[];
  limits: { tokens: number; [name: string]: number };
  example: { text: string; target?: string | null };
  training: boolean;
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
  d_ff: number;
  gated: boolean;
  activation: string;
  norm: string;
  placement: string;
  positions: { kind: string; [setting: string]: unknown };
  /** How far each layer looks; null is everywhere. */
  windows: (number | null)[];
  parameters: Record<string, number>;
  parts: Part[];
}

export interface Part {
  name: string;
  shape: number[];
  parameters: number;
}

export interface ModelInfo extends ModelEntry {
  labels?: string[];
  vocabulary: number;
  parameters: number;
  config: Record<string, unknown>;
  towers: Tower[];
  head_parts: Part[];
  tied: boolean;
}

export interface Edit {
  kind: "zero" | "mean" | "scale" | "add" | "replace" | "allow" | "patch" | "skip";
  /** Of the tensor; for "skip" the layer is in `layer`. */
  name?: string;
  layer?: string;
  heads?: number[];
  positions?: number[];
  keys?: number[];
  units?: number[];
  factor?: number;
  value?: number;
  from?: string;
}

export interface PassRequest {
  model: string;
  text: string;
  target?: string;
  ids?: { source?: number[]; tokens?: number[] };
  swap?: { tower: string; positions: [number, number] };
  edits: Edit[];
}

export interface Tokens {
  ids: number[];
  pieces: string[];
}

export interface TensorInfo {
  name: string;
  shape: number[];
  dtype: string;
  formula: string;
  inputs: string[];
  module: string;
}

export interface Pass {
  id: string;
  model: string;
  hash: string;
  text: string;
  target: string | null;
  /** The encoder's tokens, or the only tower's. */
  reads: Tokens;
  /** The decoder's tokens of an encoder–decoder. */
  writes: Tokens | null;
  edits: Edit[];
  tensors: TensorInfo[];
  seconds: number;
}

export interface Statistics {
  min: Num;
  max: Num;
  mean: Num;
  rms: Num;
  std: Num;
  nan: number;
  inf: number;
  [name: string]: Num;
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
  script: string;
  address: string;
}

/** What one head does, in numbers; null where the notion does not apply (distance across two sequences). */
export interface HeadSummary {
  site: string;
  layer: number;
  head: number;
  entropy: number;
  distance: number | null;
  previous: number | null;
  sink: number;
  padding: number;
  peak: number;
}

export interface Answers {
  position: number;
  entries: { id: number; piece: string; logit: number; probability: number }[];
  hidden_mass: number;
  entropy: number;
}

export interface Lens {
  states: string[];
  positions: number[];
  top: { piece: string; probability: number }[][][];
  chosen: number[][] | null;
}

export interface Contributions {
  logit: number;
  embedding: number;
  bias: number;
  sublayers: { name: string; parts: number[] | null; total: number }[];
}

/** The body of every refusal. */
export interface Refusal {
  where: string;
  found: string;
  expected: string;
  hint: string;
}
