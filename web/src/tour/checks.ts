// Whether the reader has done what a step asks: always against the numbers of the model that is open.

import { api, getJson, query } from "../api/client";
import { inside } from "../api/inside";
import type { Edit, Pass } from "../api/types";
import { words } from "../api/words";
import { whatif } from "../api/writing";
import { piece, printed } from "../render/numbers";
import { likeliest, softmax } from "../render/sampling";
import { session } from "../state/session.svelte";
import { placed, shownOf } from "../views/norm";
import { rescaled, sumsOf } from "../views/queryKeyValue";
import type { Check, Place, Verdict } from "./lesson";

const no = (told: string): Verdict => ({ done: false, told });
const yes = (told: string): Verdict => ({ done: true, told });
const quoted = (text: string | undefined): string => `“${piece(text ?? "")}”`;

const rowOf = async (place: Place, name: string, at: number, signal: AbortSignal): Promise<Float32Array> =>
  (await api.tensor({ pass: place.pass.id, name: `${place.name}.${name}`, at: [0, place.head, at, ":"] }, "f32", signal)).data;

const argmax = (values: ArrayLike<number>): number => likeliest(values, 1)[0];

/** The cell from the last word to the first. */
export const farthest: Check = async ({ query: q, key: k, queries, keys, ...place }, signal) => {
  if (q === null || k === null) return null;
  const last = queries.length - 1;
  if (q !== last || k !== 0) return no(`That is the way from ${quoted(queries[q])} to ${quoted(keys[k])}; the longest goes from the last word to the first.`);
  const row = await rowOf({ ...place, query: q, key: k, queries, keys }, "weights", q, signal);
  return yes(`${quoted(queries[q])} gives ${quoted(keys[0])} the weight ${printed(row[0], 4)}, in one step; a recurrent network would have needed ${last}.`);
};

/** A query with its strongest key. */
export const strongest: Check = async (place, signal) => {
  const { query: q, key: k, queries, keys } = place;
  if (q === null || k === null || q >= queries.length || k >= keys.length) return null;
  const row = await rowOf(place, "weights", q, signal);
  const best = argmax(row);
  if (k !== best) return no(`${quoted(queries[q])} gives ${quoted(keys[k])} ${printed(row[k], 4)}; another word gets more.`);
  return yes(`${quoted(keys[k])} gets ${printed(row[k], 4)} of ${quoted(queries[q])}'s attention, more than any other.`);
};

/** A score, explained down to its products. */
export const explainedScore: Check = async ({ explained }, signal) => {
  if (!explained) return null;
  const last = explained.name.split(".").pop();
  if (last !== "scores") return no(`That is ${explained.name}; look for a score, or for the sum of products below it.`);
  const found = await api.explain(explained.pass, explained.name, explained.index, signal);
  return yes(`${found.count} products, and the sum is the model's own number to within ${printed(Number(found.error), 2)}.`);
};

/** The softmax of a query without its scale. */
export const saturated: Check = async (place, signal) => {
  const factor = Number(place.more.factor ?? NaN);
  if (!Number.isFinite(factor)) return null;
  const { scale, softcap } = place.tower;
  if (Math.abs(factor) < 2 * scale) return no("That makes the scores hardly larger than the model's own; go farther up.");
  const q = place.query ?? place.queries.length - 1;
  if (softcap !== null && softcap !== undefined) return yes("The softcap of this model keeps even such scores in bounds.");
  const sums = sumsOf(await words.scores(place.pass.id, place.name, place.head, q, signal));
  const [own, more] = [scale, factor].map((each) => softmax(rescaled(sums, each, null)));
  return yes(`For ${quoted(place.queries[q])} the largest weight goes from ${printed(own[argmax(own)], 3)} to ${printed(more[argmax(more)], 3)}: less is left for all others.`);
};

/** A head that looks at the token before, as far as this model has one. */
export const previousHead: Check = async ({ pass, name, head, layer, site }, signal) => {
  if (site.kind !== "self") return no("Cross-attention looks at another sequence: choose a self-attention.");
  const heads = (await api.heads(pass.id, signal)).filter((one) => one.previous !== null);
  const mine = heads.find((one) => one.site === name && one.head === head);
  if (!mine) return null;
  const best = Math.max(...heads.map((one) => one.previous!));
  if (mine.previous! < 0.5 && mine.previous! < best) {
    return no(`Head ${head} of layer ${layer} gives the token before ${printed(mine.previous!, 3)} on average; there is one that gives it ${printed(best, 3)}.`);
  }
  return yes(`Head ${head} of layer ${layer} gives the token before ${printed(mine.previous!, 3)} of its attention, on average.`);
};

/** Words swapped, or positions taken out: the answer's scores tell whether order counts. */
export const disordered: Check = async ({ pass, more }, signal) => {
  const swaps = (pass.asked.edits ?? []).some((edit) => edit.kind === "swap");
  if (more.swap && /^\d+,\d+$/.test(more.swap)) return yes("The rows of the two words show how far the vectors above them follow the words, and how far they do not: that is what positions do.");
  if (!swaps && pass.asked.positions !== "none") return null;
  const plain = await unchanged(pass, signal);
  const { change } = await compared(plain, pass, signal);
  return yes(`The scores of the answer changed by up to ${printed(change, 3)}: order counts for this model.`);
};

/** A cell that the mask hides, or, where nothing is hidden, one that looks ahead. */
export const hiddenCell: Check = async (place, signal) => {
  const { query: q, key: k, queries, keys, tower, site, layer } = place;
  if (q === null || k === null || q >= queries.length || k >= keys.length) return null;
  if (site.kind !== "self") return no("Cross-attention looks at another sequence, in which no word comes later: choose a self-attention.");
  const row = await rowOf(place, "weights", q, signal);
  // A weight may come out as 0 where nothing is hidden: the mask itself is asked.
  const slice = { pass: place.pass.id, name: `${place.name}.mask`, at: [0, 0, q, ":"] as const };
  const allowed = (await api.tensor(slice, "f32", signal).catch(() => api.tensor(slice, "sqrt8", signal))).data; // a file may have eight bits alone
  if (!allowed[k]) {
    const window = tower.windows[layer];
    const isFar = window !== null && Math.abs(q - k) >= window;
    const why = tower.causal && k > q ? `comes after ${quoted(queries[q])}` : isFar ? `is ${Math.abs(q - k)} away from ${quoted(queries[q])}, beyond the window of ${window}` : "is hidden by the mask";
    return yes(`${quoted(keys[k])} ${why}: its score is −∞ and its weight exactly 0.`);
  }
  if (tower.causal) return no(`${quoted(queries[q])} may look at ${quoted(keys[k])}: the weight is ${printed(row[k], 4)}.`);
  if (k <= q) return no("That word comes before, or is the word itself; choose one that comes after.");
  return yes(`${allowed.every(Boolean) ? "Nothing is hidden here" : "This cell is not hidden"}: ${quoted(queries[q])} gives ${quoted(keys[k])} ${printed(row[k], 4)}, though it comes later.`);
};

/** The position whose vector is the widest as it comes into the norm that is shown. */
export const widest: Check = async ({ pass, tower, layer, query: q, more }, signal) => {
  if (q === null) return null;
  const norm = shownOf((await inside.norms(pass.id, signal)).map(placed), more.norm, layer, tower.prefix)?.info;
  if (!norm) return no("This model has no norms.");
  if (norm.shape.length !== 3) return no("That norm works inside the heads, or on the whole text; choose one that stands on the stream.");
  const found = await api.tensor({ pass: pass.id, name: norm.input, at: [0, ":", ":"] }, "f32", signal);
  const [rows, width] = found.shape;
  if (q >= rows) return null;
  const spread = Array.from({ length: rows }, (_, i) => variance(found.data.subarray(i * width, (i + 1) * width), norm.centred));
  const best = argmax(spread);
  const what = norm.centred ? "variance" : "mean square";
  if (q !== best) return no(`At position ${q} the ${what} is ${printed(spread[q], 4)}; the largest is ${printed(spread[best], 4)}.`);
  return yes(`The ${what} at position ${q} is ${printed(spread[q], 4)}, the largest of all ${rows}; after a norm all are alike.`);
};

/** About the mean where that is taken off, else about 0. */
function variance(values: Float32Array, centred: boolean): number {
  const mean = centred ? values.reduce((sum, value) => sum + value, 0) / values.length : 0;
  return values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
}

/** The unit that is most active at the chosen position. */
export const activeUnit: Check = async ({ pass, tower, layer, query: q, more }, signal) => {
  if (more.unit === undefined) return null;
  const unit = Number(more.unit);
  const at = q ?? session.sequence(tower.prefix).ids.length - 1;
  const { data } = await api.tensor({ pass: pass.id, name: `${tower.prefix}blocks.${layer}.feed_forward.hidden`, at: [0, at, ":"] }, "f32", signal);
  if (unit >= data.length) return null;
  const best = argmax(data.map(Math.abs));
  if (Math.abs(data[unit]) < Math.abs(data[best])) return no(`Unit ${unit} is at ${printed(data[unit], 4)} there; another is at ${printed(data[best], 4)}.`);
  return yes(`Unit ${unit} of layer ${layer} is at ${printed(data[unit], 4)}, of ${data.length} units the farthest from 0.`);
};

interface Looked {
  states: string[];
  top: { id: number; piece: string; probability: number }[][][];
}

/** A state from which on the answer at the chosen position stays the likeliest. */
export const decided: Check = async ({ pass, more, query: q, queries, model }, signal) => {
  if (model.head !== "language" && model.head !== "masked") {
    return more.state !== undefined || q !== null ? yes("This model has no head over tokens; what holds for every model is that each layer adds to the stream.") : null;
  }
  if (more.state === undefined) return null;
  const at = q ?? queries.length - 1;
  const told = await getJson<Looked>(`/api/passes/${pass.id}/lens${query({ top: 1, start: at, stop: at + 1 })}`, signal);
  const answers = told.top.map((state) => state[0][0].id);
  const final = answers[answers.length - 1];
  let first = answers.length - 1;
  while (first > 0 && answers[first - 1] === final) first--;
  const mine = told.states.indexOf(more.state);
  const last = told.top[answers.length - 1][0][0];
  if (mine < 0) return null;
  if (mine !== first) return no(answers[mine] === final ? `There it is ${quoted(last.piece)} already, but it was so before.` : `There it is ${quoted(told.top[mine][0][0].piece)} still, not ${quoted(last.piece)}.`);
  return yes(`From ${more.state} on it is ${quoted(last.piece)}, at the end with probability ${printed(last.probability, 3)}.`);
};

/** The other tower, or, in a model of one, a word and one after it. */
export const sides: Check = async (place, signal) => {
  if (place.model.towers.length > 1) {
    const { tower, site } = place;
    if (!tower.causal) return no("That is the encoder: every word sees every other. Now choose the decoder's self-attention.");
    if (site.kind !== "self") return no("That is the cross-attention; choose the decoder's self-attention.");
    return yes("In the decoder the upper right half is empty: no word sees a later one.");
  }
  const { query: q, key: k, tower } = place;
  if (q === null || k === null) return null;
  if (k <= q) return no("The key must come after the query.");
  const row = await rowOf(place, "weights", q, signal);
  return yes(`The weight is ${printed(row[k], 4)}: ${tower.causal ? "the future is hidden, so this is a decoder" : "the future is seen, so this is an encoder"}.`);
};

/** In cross-attention, a target word with its strongest source word. */
export const aligned: Check = async (place, signal) => {
  if (!place.model.towers.some((tower) => tower.cross)) return null;
  if (place.site.kind !== "cross") return no("Choose the cross-attention first.");
  return strongest(place, signal);
};

/** Three tokens written, or for an encoder a gap to fill. */
export const wrote: Check = async ({ model, pass, more }, signal) => {
  if (model.family === "encoder") {
    if (model.head === "token_classification") return yes("This encoder neither writes nor fills gaps; it answers with a label for each token.");
    if (model.head !== "masked") return yes("This encoder neither writes nor fills gaps; it answers about the whole text.");
    const gap = pass.reads.pieces.findIndex((text) => /^(<mask>|\[MASK\])$/.test(text));
    if (gap < 0) return null;
    const [best] = (await api.answers(pass.id, gap, 1, signal)).entries;
    return yes(`For the gap it expects ${quoted(best.piece)} most, with probability ${printed(best.probability, 3)}.`);
  }
  const written = (more.written ?? "").split(",").filter(Boolean).length;
  if (!written) return null;
  if (written < 3) return no(`${written} of 3.`);
  return yes(`${written} tokens, each from a distribution over ${(model.vocabulary ?? 0).toLocaleString("en")}.`);
};

/** A head taken away that changes the likeliest answer, or the scores where no head does. */
export const headMatters: Check = async ({ pass, model }, signal) => {
  const edits = pass.asked.edits ?? [];
  const isHead = (edit: Edit): boolean => (edit.kind === "zero" || edit.kind === "mean") && edit.name.endsWith("attention.context") && !!edit.heads;
  if (!edits.some(isHead)) return null;
  const plain = await unchanged(pass, signal);
  const { change, first, same } = await compared(plain, pass, signal);
  if (model.head === "embedding") return yes(`The vector changed by up to ${printed(change, 3)}.`);
  if (!same) return yes(`The likeliest answer was ${first[0]}; without the head it is ${first[1]}.`);
  if (await noHeadFlips(plain, signal)) return yes(`The answer stays ${first[0]}, as it does without any one of this model's heads; its scores change by up to ${printed(change, 3)}.`);
  return no(`The answer is still ${first[0]}: the scores changed by up to ${printed(change, 3)} only. “Try every head” shows the one it hangs on.`);
};

/** The same input without edits. */
const unchanged = (pass: Pass, signal: AbortSignal): Promise<Pass> =>
  api.pass({ ...whatif.plain(pass), positions: undefined }, signal);

interface Compared {
  change: number;
  /** The likeliest answer of each, where they first differ, else at the end. */
  first: [string, string];
  same: boolean;
}

async function compared(plain: Pass, changed: Pass, signal: AbortSignal): Promise<Compared> {
  const { shape } = plain.tensors.find(({ name }) => name === "logits")!;
  const [from, to] = shape.length === 3 ? answered(plain, shape) : [0, 1];
  const at = shape.length === 3 ? ([0, [from, to], ":"] as const) : ([0, ":"] as const);
  const [a, b] = await Promise.all([plain, changed].map(async ({ id }) => (await api.tensor({ pass: id, name: "logits", at }, "f32", signal)).data));
  const change = a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);
  if (session.model?.head === "embedding") return { change, first: ["", ""], same: true };
  const width = a.length / (to - from);
  const best = (data: Float32Array, row: number): number => argmax(data.subarray(row * width, (row + 1) * width));
  let row = 0;
  while (row < to - from - 1 && best(a, row) === best(b, row)) row++;
  const named = async (pass: Pass): Promise<string> => quoted((await api.answers(pass.id, from + row, 1, signal)).entries[0].piece);
  return { change, first: [await named(plain), await named(changed)], same: best(a, row) === best(b, row) };
}

const MOST = 2_000_000; // scores that are fetched for a check

/** Where the answer is: all that an encoder–decoder writes, else a gap, else the end. */
function answered(pass: Pass, [, length, width]: readonly number[]): [number, number] {
  if (pass.writes) return [length * width > MOST ? length - 1 : 0, length];
  const gap = pass.reads.pieces.findIndex((text) => /^(<mask>|\[MASK\])$/.test(text));
  return gap >= 0 ? [gap, gap + 1] : [length - 1, length];
}

/** Whether the answer holds without any one head: in a small or well-balanced model it may. */
async function noHeadFlips(plain: Pass, signal: AbortSignal): Promise<boolean> {
  const sites = plain.tensors.filter(({ name }) => name.endsWith("attention.context"));
  if (sites.reduce((sum, { shape }) => sum + shape[1], 0) > 48) return false; // too many to try: the reader may skip
  for (const { name, shape } of sites) {
    for (let head = 0; head < shape[1]; head++) {
      const request = { ...whatif.plain(plain), positions: undefined, edits: [{ kind: "zero" as const, name, heads: [head] }] };
      const { same } = await compared(plain, await api.pass(request, signal), signal);
      if (!same) return false;
    }
  }
  return true;
}

const FAMILIES = { encoder: "an encoder", decoder: "a decoder", encoder_decoder: "an encoder–decoder" } as const;

export const family: Check = async ({ said, model }) => {
  if (!said) return null;
  return said === FAMILIES[model.family] ? yes(`Right: ${model.name} is ${FAMILIES[model.family]}.`) : no("Look at the picture again: how many towers are there, and what does the mask of the last one hide?");
};

/** The share of the feed-forward networks, in per cent. */
export const share: Check = async ({ said, model }) => {
  if (said.trim() === "") return null;
  const given = Number(said.replace("%", "").replace(",", "."));
  const inside = model.parts.filter(({ name }) => name.includes("feed_forward")).reduce((sum, { parameters }) => sum + parameters, 0);
  const own = (100 * inside) / model.parameters;
  if (!Number.isFinite(given)) return no("Write a number.");
  if (Math.abs(given - own) > 3) return no(`Not within 3: try again, the sizes stand in the picture.`);
  return yes(`${inside.toLocaleString("en")} of ${model.parameters.toLocaleString("en")} parameters: ${printed(own, 3)} %.`);
};
