// The arithmetic that the page itself does for one query: products in double precision from the model's own float32, as
// Explain does them, and softmaxes of scores that the model never had. No framework.

import type { ScoresTold } from "../api/words";
import { toNumber } from "../render/numbers";

/** exp(score − largest) of each, 0 where hidden; and their sum. All 0 where all is hidden. */
export function exponentials(scores: readonly number[]): { terms: number[]; sum: number; largest: number } {
  const largest = Math.max(...scores);
  const terms = scores.map((score) => (largest === -Infinity ? 0 : Math.exp(score - largest)));
  return { terms, sum: terms.reduce((sum, term) => sum + term, 0), largest };
}

export function softmax(scores: readonly number[]): number[] {
  const { terms, sum } = exponentials(scores);
  return terms.map((term) => (sum === 0 ? 0 : term / sum));
}

/** −Σ w ln w, in nats. */
export const entropy = (weights: readonly number[]): number => weights.reduce((sum, w) => (w > 0 ? sum - w * Math.log(w) : sum), 0);

/** The sums of a query with every key, and what is done with them beside the scale. */
export function sumsOf(told: ScoresTold): { sum: number; bias: number; hidden: boolean }[] {
  return told.keys.map(({ sum, steps, captured }) => {
    const at = steps.findIndex(({ name }) => name.startsWith("+ bias"));
    const bias = at < 0 ? 0 : toNumber(steps[at].value) - toNumber(steps[at - 1].value);
    return { sum: toNumber(sum), bias, hidden: toNumber(captured) === -Infinity };
  });
}

/** Scores with another factor in place of the model's scale; bias and mask as they are. */
export function rescaled(keys: readonly { sum: number; bias: number; hidden: boolean }[], factor: number, softcap: number | null): number[] {
  return keys.map(({ sum, bias, hidden }) => {
    if (hidden) return -Infinity;
    const score = sum * factor;
    return (softcap === null ? score : softcap * Math.tanh(score / softcap)) + bias;
  });
}

/** The slope that learning has to go by: the largest w (1 − w), what a weight changes with its own score. */
export const slope = (weights: readonly number[]): number => Math.max(0, ...weights.map((w) => w * (1 - w)));
