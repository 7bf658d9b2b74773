// What the server tells of norms, units and the residual stream. The routes are in explorer/routes/{norms,units,residual}.py.

import { getJson, getTensor, query } from "./client";
import type { Tensor } from "./tensor";

export interface NormInfo {
  /** Of what comes out. */
  name: string;
  /** Of what goes in. */
  input: string;
  shape: number[];
  kind: "LayerNorm" | "RMSNorm";
  centred: boolean;
  bias: boolean;
  epsilon: number;
  formula: string;
}

export interface NormSteps {
  mean: number | null;
  variance: number;
  epsilon: number;
  deviation: number;
  rms: { before: number; after: number };
  error: number;
  rows: string[];
}

export interface StreamNames {
  prefix: string;
  states: string[];
  written: string[];
}

export interface Scored {
  id: number;
  piece: string;
  score: number;
}

export interface UnitEntry {
  unit: number;
  gate: number | null;
  pre: number;
  hidden: number;
  written: number;
  active: boolean;
}

export interface Units {
  site: string;
  position: number;
  units: number;
  entries: UnitEntry[];
  /** By position, the share of units that are active. */
  active: number[];
  share: number;
  dead: { count: number; units: number[] };
}

export interface Unit {
  site: string;
  unit: number;
  position: number;
  gate: number | null;
  pre: number;
  hidden: number;
  reads: { norm: number };
  writes: { norm: number };
  /** Positions, the most active first. */
  order: number[];
  active: boolean[];
  responds: Scored[] | null;
  why_no_responses: string;
  promotes: [Scored[], Scored[]] | null;
  exact: boolean;
  why_not: string;
}

export interface Guess {
  id: number;
  piece: string;
  logit: number;
  probability: number;
}

export interface LensTable {
  states: string[];
  positions: number[];
  /** By state and position, the likeliest first. */
  top: Guess[][][];
  /** The token that is followed at each position. */
  tokens: { id: number; piece: string }[];
  chosen: number[][];
  rank: number[][];
  entropy: number[][];
}

export interface Distribution {
  position: number;
  entries: Guess[];
  hidden: number;
  entropy: number;
}

export interface Shares {
  position: number;
  tokens: { id: number; piece: string }[];
  /** As captured, before a softcap; `total` is the sum of all parts. */
  logit: number;
  total: number;
  capped: number;
  embedding: number;
  bias: number;
  sublayers: {
    name: string;
    bias: number;
    total: number;
    parts: number[] | null;
    units: { unit: number; value: number }[] | null;
  }[];
  edited: boolean;
}

const under = (pass: string): string => `/api/passes/${encodeURIComponent(pass)}`;

export const inside = {
  norms: (pass: string, signal?: AbortSignal) => getJson<NormInfo[]>(`${under(pass)}/norms`, signal),
  norm: (pass: string, name: string, at: readonly number[], signal?: AbortSignal) =>
    getJson<NormSteps>(`${under(pass)}/norm${query({ name, at: at.join(",") })}`, signal),
  /** A row each: before, standard, gain, bias, after. */
  normVectors: (pass: string, name: string, at: readonly number[], signal?: AbortSignal): Promise<Tensor> =>
    getTensor(`${under(pass)}/norm/vectors${query({ name, at: at.join(",") })}`, "f32", signal),
  streams: (pass: string, signal?: AbortSignal) => getJson<StreamNames[]>(`${under(pass)}/streams`, signal),
  /** By state (or sub-layer) and position. */
  streamSizes: (pass: string, tower: string, of: "states" | "written", signal?: AbortSignal): Promise<Tensor> =>
    getTensor(`${under(pass)}/streams/rms${query({ tower, of })}`, "f32", signal),
  units: (pass: string, site: string, position: number, by: "activation" | "written", top: number, signal?: AbortSignal) =>
    getJson<Units>(`${under(pass)}/units${query({ site, position, by, top })}`, signal),
  unit: (pass: string, site: string, unit: number, position: number, signal?: AbortSignal) =>
    getJson<Unit>(`${under(pass)}/unit${query({ site, unit, position })}`, signal),
  lens: (pass: string, start: number, stop: number, token: number | null, sublayers: boolean, signal?: AbortSignal) =>
    getJson<LensTable>(`${under(pass)}/lens${query({ start, stop, token, sublayers: sublayers || null, top: 3 })}`, signal),
  lensCell: (pass: string, state: string, position: number, signal?: AbortSignal) =>
    getJson<Distribution>(`${under(pass)}/lens/cell${query({ state, position, top: 20 })}`, signal),
  contributions: (pass: string, position: number, token: number | null, against: number | null, signal?: AbortSignal) =>
    getJson<Shares>(`${under(pass)}/contributions${query({ position, token, against })}`, signal),
};

/** Means over positions, and the least and greatest. */
export function across(rows: Tensor): { mean: number[]; low: number[]; high: number[] } {
  const [count, length] = rows.shape;
  const found = { mean: [] as number[], low: [] as number[], high: [] as number[] };
  for (let i = 0; i < count; i++) {
    const row = rows.data.subarray(i * length, (i + 1) * length);
    found.mean.push(row.reduce((sum, value) => sum + value, 0) / length);
    found.low.push(row.reduce((least, value) => Math.min(least, value), Infinity));
    found.high.push(row.reduce((most, value) => Math.max(most, value), -Infinity));
  }
  return found;
}

/** "blocks.3.residual_mid" in short: "3 mid". */
export const stateLabel = (name: string): string => {
  const found = /blocks\.(\d+)\.residual_(\w+)$/.exec(name);
  return found ? (found[2] === "pre" ? "in" : found[2] === "post" ? `${found[1]}` : `${found[1]} ${found[2]}`) : name;
};

