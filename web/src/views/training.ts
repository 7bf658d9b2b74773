// What the view of training asks and how it reckons. No framework.

import { api, type Slice } from "../api/client";
import type { Pass, PassRequest } from "../api/types";

export interface Course {
  name: string;
  /** How many steps the run was to take; null where nothing says so. */
  planned: number | null;
  steps: { step: number; loss: number; learning_rate?: number }[];
  /** Of the logged steps, one in so many is here. */
  every: number;
  evaluations: { step: number; best?: boolean; validation?: { loss: number; accuracy?: number } }[];
  samples: { step: number; samples: { input: string; output: string; reference?: string }[] }[];
  checkpoints: { key: string; step: number }[];
  advice: string | null;
}

/** One state of the model: a checkpoint, or the weights that were kept in the end, whose key is "main". */
export interface Stop {
  key: string;
  step: number;
}

export const named = (stop: Stop): string => (stop.key === "main" ? "kept weights" : `step ${stop.step.toLocaleString("en")}`);

/** The same pass of one state. */
export interface State {
  stop: Stop;
  pass: Pass;
  /** null: a head that answers with a vector has no logits. */
  row: Float32Array | null;
}

/** All states, the first first; the kept weights last, at the step of the evaluation that chose them. */
export function stops(course: Course): Stop[] {
  const best = course.evaluations.filter((one) => one.best).at(-1)?.step;
  const last = course.steps.at(-1)?.step ?? course.checkpoints.at(-1)?.step ?? 0;
  return [...course.checkpoints, { key: "main", step: best ?? last }];
}

/** A state for each step, in their order. The kept weights are mostly those of a checkpoint: one point for both. */
export function overSteps(states: readonly State[]): State[] {
  const last = new Map(states.map((state) => [state.stop.step, state]));
  return [...last.values()].filter((state) => state.row).sort((a, b) => a.stop.step - b.stop.step);
}

/** At most so many, evenly, the first and the last among them. */
export function spread<T>(all: readonly T[], most: number): T[] {
  if (all.length <= most) return [...all];
  return Array.from({ length: most }, (_, i) => all[Math.round((i * (all.length - 1)) / (most - 1))]);
}

/** The same tokens for every state, whatever each would write itself, changed alike on the way. */
export function same(pass: Pass, model: string): PassRequest {
  const { asked } = pass;
  if (asked.padding) return { text: "", ...asked, model }; // its tokens are padded already
  const ids = { reads: pass.reads.ids, ...(pass.writes ? { writes: pass.writes.ids } : {}) };
  return { ...asked, model, text: "", target: undefined, ids };
}

/** The probability of one answer: softmax of a row of logits, in double precision. */
export function probability(row: ArrayLike<number>, id: number): number {
  let most = -Infinity;
  for (let i = 0; i < row.length; i++) most = Math.max(most, row[i]);
  let sum = 0;
  for (let i = 0; i < row.length; i++) sum += Math.exp(row[i] - most);
  return Math.exp(row[id] - most) / sum;
}

/** The row of logits at a position; a classifier has only one. */
export async function logits(pass: Pass, position: number, signal?: AbortSignal): Promise<Float32Array> {
  const shape = pass.tensors.find((tensor) => tensor.name === "logits")!.shape;
  const at: Slice["at"] = shape.length === 3 ? [0, position, ":"] : [0, ":"];
  return (await api.tensor({ pass: pass.id, name: "logits", at }, "f32", signal)).data;
}

export function nearest<T extends { step: number }>(all: readonly T[], step: number): T | null {
  return all.reduce<T | null>((best, one) => (best && Math.abs(best.step - step) <= Math.abs(one.step - step) ? best : one), null);
}
