// What the server tells of tokens, positions and masks.

import { getJson, getTensor, query } from "./client";
import type { Num } from "./types";

export interface Token {
  id: number;
  piece: string;
  /** As it stands in the vocabulary. */
  raw: string | null;
  special: boolean;
  norm: number;
}

export interface Near extends Token {
  size: number;
  neighbours: { id: number; cosine: number; norm: number; piece: string }[];
}

export interface Found {
  size: number;
  found: number;
  entries: { id: number; piece: string }[];
}

export interface Scheme {
  kind: "none" | "sinusoidal" | "learned" | "rotary" | "alibi" | "relative_bias";
  causal: boolean;
  /** Of sinusoids and of rotary positions. */
  frequencies?: number[];
  /** Coordinates of a head that are turned together. */
  pairs?: [number, number][];
  [setting: string]: unknown;
}

export interface Biases {
  /** How many positions after the query the key stands. */
  ahead: number[];
  heads: number[][];
  buckets: number[] | null;
}

export interface Apart {
  /** How many positions the key stands before the query. */
  distances: number[];
  own: number;
  pairs: [number, number][];
  query: number[];
  keys: number[][];
  /** What each pair adds, and last what is not turned. */
  parts: number[][];
}

export interface Moved {
  states: string[];
  order: number[];
  moved: number[][];
}

export interface MaskTold {
  site: string;
  rule: { causal: boolean; window: number | null; padding: boolean; bias: boolean; cross: boolean };
  edited: string[];
  queries: number;
  keys: number;
  pairs: number;
  /** Queries that see nothing. */
  blind: number[];
  /** Keys that nobody sees. */
  unseen: number[];
  /** What each head lays on padding; null where there is none. */
  padding: number[] | null;
}

export interface ScoresTold {
  scale: number;
  softcap: number | null;
  /** Of keys and values that the head reads. */
  group: number;
  groups: number;
  keys: { sum: Num; steps: { name: string; value: Num }[]; captured: Num }[];
}

const of = (model: string): string => `/api/models/${encodeURIComponent(model)}`;
const under = (pass: string): string => `/api/passes/${encodeURIComponent(pass)}`;

export const words = {
  tokens: (model: string, tower: string, ids: readonly number[], signal?: AbortSignal) =>
    getJson<Token[]>(`${of(model)}/tokens${query({ tower, ids: ids.join(",") })}`, signal),

  find: (model: string, tower: string, find: string, signal?: AbortSignal) =>
    getJson<Found>(`${of(model)}/vocabulary${query({ tower, find })}`, signal),

  norms: (model: string, tower: string, signal?: AbortSignal) => getTensor(`${of(model)}/norms${query({ tower })}`, "f32", signal),

  embedding: (model: string, tower: string, token: number, signal?: AbortSignal) =>
    getTensor(`${of(model)}/embedding${query({ token, tower })}`, "f32", signal),

  nearest: (model: string, tower: string, token: number, centred: boolean, signal?: AbortSignal) =>
    getJson<Near>(`${of(model)}/nearest${query({ token, tower, centred })}`, signal),

  scheme: (model: string, tower: string, signal?: AbortSignal) =>
    getJson<Scheme>(`${of(model)}/positions${query({ tower })}`, signal),

  codes: (model: string, tower: string, length: number, alike: boolean, signal?: AbortSignal) =>
    getTensor(`${of(model)}/positions/codes${query({ length, tower, alike })}`, "f32", signal),

  biases: (model: string, tower: string, reach: number, signal?: AbortSignal) =>
    getJson<Biases>(`${of(model)}/positions/biases${query({ reach, tower })}`, signal),

  apart: (pass: string, site: string, head: number, place: { query: number; key: number }, reach: number, signal?: AbortSignal) =>
    getJson<Apart>(`${under(pass)}/turned${query({ site, head, ...place, reach })}`, signal),

  moved: (pass: string, other: string, tower: string, first: number, second: number, signal?: AbortSignal) =>
    getJson<Moved>(`${under(pass)}/moved${query({ other, first, second, tower })}`, signal),

  masks: (pass: string, signal?: AbortSignal) => getJson<MaskTold[]>(`${under(pass)}/masks`, signal),

  scores: (pass: string, site: string, head: number, place: number, signal?: AbortSignal) =>
    getJson<ScoresTold>(`${under(pass)}/scores${query({ site, head, query: place })}`, signal),
};
