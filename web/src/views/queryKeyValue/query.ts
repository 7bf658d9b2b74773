// One query of one head in the model's own numbers, and what each step makes of them. No framework.

import { api } from "../../api/client";
import { fromNumbers, type Tensor } from "../../api/tensor";
import type { Tower } from "../../api/types";
import { words } from "../../api/words";
import { printed, toNumber } from "../../render/numbers";

export interface About {
  pass: string;
  site: string;
  head: number;
  query: number;
  kind: "self" | "cross";
  tower: Tower;
  window: number | null;
  queries: readonly string[];
  /** Of the keys. */
  pieces: readonly string[];
}

/** Whether queries and keys are turned by their positions. */
export const isTurned = ({ tower, kind }: About): boolean => tower.positions.kind === "rotary" && kind === "self";

/** The forms that a query takes on its way, by their names in the pass. */
function formsOf(about: About): [string, string][] {
  const forms: [string, string][] = [["q_projected", "projected"]];
  if (about.tower.qk_norm) forms.push(["query_norm.out", "normed"]);
  if (isTurned(about)) forms.push(["q", `turned to position ${about.query}`]);
  else if (forms.length === 1) forms[0] = ["q", "projected"];
  return forms;
}

export async function fetched(about: About, signal: AbortSignal) {
  const forms = formsOf(about);
  const told = await words.scores(about.pass, about.site, about.head, about.query, signal);
  const row = (name: string, at: (number | ":")[]) => api.tensor({ pass: about.pass, name: `${about.site}.${name}`, at }, "f32", signal);
  const [k, v, mask, scores, weights, context, ...q] = await Promise.all([
    row("k", [0, told.group, ":", ":"]),
    row("v", [0, told.group, ":", ":"]),
    row("mask", [0, 0, about.query, ":"]),
    row("scores", [0, about.head, about.query, ":"]),
    row("weights", [0, about.head, about.query, ":"]),
    row("context", [0, about.head, about.query, ":"]),
    ...forms.map(([name]) => row(name, [0, about.head, about.query, ":"])),
  ]);
  const K = k.shape[1];
  const vector = q[q.length - 1].data;
  const keys = told.keys.map((key, s) => {
    const own = k.data.subarray(s * K, (s + 1) * K);
    const value = v.data.subarray(s * K, (s + 1) * K);
    const steps = key.steps.map((step) => ({ name: step.name, value: toNumber(step.value) }));
    const bias = steps.findIndex((step) => step.name.startsWith("+ bias"));
    const sum = toNumber(key.sum);
    return {
      s,
      k: own,
      products: Float64Array.from(own, (each, i) => each * vector[i]),
      sum,
      scaled: steps[0].value,
      capped: steps.find((step) => step.name.startsWith("squashed"))?.value ?? null,
      biased: bias < 0 ? null : steps[bias].value,
      bias: bias < 0 ? 0 : steps[bias].value - steps[bias - 1].value,
      allowed: mask.data[s] === 1,
      score: scores.data[s],
      weight: weights.data[s],
      v: value,
      weighted: Float64Array.from(value, (each) => each * weights.data[s]),
    };
  });
  return { ...about, told, keys, context: context.data, q: forms.map(([name, text], i) => ({ name: `${about.site}.${name}`, text, data: q[i].data })) };
}

export type Query = Awaited<ReturnType<typeof fetched>>;
export type Key = Query["keys"][number];

export const isBiased = ({ keys }: Query): boolean => keys.some((key) => key.biased !== null);

/** 1/√K, by which most models multiply; and whether this one does. */
export const rootOf = ({ q }: Query): number => q[0].data.length ** -0.5;
export const isRoot = (now: Query): boolean => Math.abs(now.told.scale / rootOf(now) - 1) < 1e-3;

// ---- the steps

export interface Step {
  id: string;
  title: string;
  tex: string;
}

export function stepsOf(now: Query): Step[] {
  const { told } = now;
  const turned = isTurned(now);
  return [
    { id: "query", title: "The query", tex: turned ? "q_t = R_t W_Q\\, x_t" : "q_t = W_Q\\, x_t" },
    { id: "keys", title: "The keys", tex: turned ? "k_s = R_s W_K\\, x_s" : now.kind === "cross" ? "k_s = W_K\\, \\text{source}_s" : "k_s = W_K\\, x_s" },
    { id: "products", title: "Products", tex: "q_{t,i} \\cdot k_{s,i}" },
    { id: "sum", title: "Their sum", tex: "q_t \\cdot k_s = \\sum_i q_{t,i}\\, k_{s,i}" },
    { id: "scale", title: "Scaled", tex: `(q_t \\cdot k_s) \\times ${printed(told.scale, 4)}` },
    ...(told.softcap === null ? [] : [{ id: "softcap", title: "Squashed", tex: `c \\tanh(\\cdot / c), \\quad c = ${told.softcap}` }]),
    ...(isBiased(now) ? [{ id: "bias", title: "Bias", tex: "+\\, b(t - s)" }] : []),
    { id: "mask", title: "Masked", tex: "-\\infty \\text{ where } t \\text{ may not see } s" },
    { id: "softmax", title: "Softmax", tex: "w_s = e^{\\mathrm{score}_s} \\Big/ \\sum_{s'} e^{\\mathrm{score}_{s'}}" },
    { id: "values", title: "Values", tex: "w_s\\, v_s" },
    { id: "context", title: "Context", tex: "\\mathrm{context}_t = \\sum_s w_s\\, v_s" },
  ];
}

const most = (rows: Iterable<ArrayLike<number>>): number => {
  let high = 1e-12;
  for (const row of rows) for (let i = 0; i < row.length; i++) high = Math.max(high, Math.abs(row[i]));
  return high;
};

/** What the strips of each kind of vector are coloured by: one scale for all keys. */
export const highsOf = (now: Query) => ({
  q: most(now.q.map((form) => form.data)),
  k: most(now.keys.map((key) => key.k)),
  products: most(now.keys.map((key) => key.products)),
  v: most(now.keys.map((key) => key.v)),
  weighted: most([now.context, ...now.keys.map((key) => key.weighted)]),
});

export type Highs = ReturnType<typeof highsOf>;

export function legendsOf(step: string, highs: Highs): [string, number][] {
  const of: Record<string, [string, number][]> = {
    query: [["q", highs.q]],
    keys: [["k", highs.k]],
    products: [["q", highs.q], ["k", highs.k], ["products", highs.products]],
    sum: [["products", highs.products]],
    values: [["v", highs.v], ["w · v", highs.weighted]],
    context: [["w · v and context", highs.weighted]],
  }; // prettier-ignore
  return of[step] ?? [];
}

/** The numbers of a step for all keys, as a matrix. */
export function matrixOf(now: Query, step: string): { tensor: Tensor; rows: string[]; columns: string[] } {
  const { keys, q, pieces, told } = now;
  const key = `${now.pass} ${now.site} ${now.head} ${now.query} ${step}`;
  const made = (numbers: ArrayLike<number>[], rows: string[], columns?: string[]) => {
    const width = numbers[0].length;
    const flat = numbers.flatMap((row) => Array.from(row));
    return { tensor: fromNumbers(key, [numbers.length, width], flat), rows, columns: columns ?? Array.from({ length: width }, (_, i) => String(i)) };
  };
  if (step === "query") return made(q.map((form) => form.data), q.map((form) => form.text));
  if (step === "keys") return made(keys.map((each) => each.k), [...pieces]);
  if (step === "products") return made(keys.map((each) => each.products), [...pieces]);
  if (step === "values" || step === "context") return made([...keys.map((each) => each.weighted), now.context], [...pieces, "context"]);
  const columns = ["sum", "scaled", ...(told.softcap === null ? [] : ["squashed"]), ...(isBiased(now) ? ["with bias"] : []), "score", "weight"];
  const rows = keys.map((each) => [each.sum, each.scaled, each.capped, each.biased, each.score, each.weight].filter((value) => value !== null));
  return made(rows, [...pieces], columns);
}
