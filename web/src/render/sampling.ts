// Choosing the next token, by the rules of pellucid.inference.sampling: temperature, top-k, top-p, min-p, one after the
// other, on the scores of the whole vocabulary; then one draw. No framework.
//
//   choose(logits, settings, never)   {before, after, dropped, kept}: two distributions, and what dropped each token
//   uniform(seed, count)              the draw with this number of a seeded sequence, from 0 to 1
//   drawn(probabilities, draw)        the token in whose share the draw falls, the shares laid end to end
//   likeliest(values, count)          the places of the largest, the largest first; of equals the first
//   entropy(probabilities)            in nats

export interface Settings {
  temperature: number;
  /** 0 keeps all. */
  topK: number;
  /** 1 keeps all. */
  topP: number;
  /** 0 keeps all. */
  minP: number;
}

export const PLAIN: Settings = { temperature: 1, topK: 0, topP: 1, minP: 0 };

/** What dropped a token, by number: nothing, one of the filters, or that it is never written. */
export const DROPPED = ["", "top-k", "top-p", "min-p", "never written"] as const;
const [TOP_K, TOP_P, MIN_P, NEVER] = [1, 2, 3, 4];

export interface Choice {
  /** The softmax of the scores as they are. */
  before: Float64Array;
  /** Of what the filters leave. */
  after: Float64Array;
  /** A place in DROPPED for each token. */
  dropped: Uint8Array;
  kept: number;
}

export function softmax(scores: ArrayLike<number>): Float64Array {
  let most = -Infinity;
  for (let i = 0; i < scores.length; i++) if (scores[i] > most) most = scores[i];
  const found = new Float64Array(scores.length);
  let sum = 0;
  for (let i = 0; i < scores.length; i++) sum += found[i] = Math.exp(scores[i] - most);
  for (let i = 0; i < scores.length; i++) found[i] /= sum;
  return found;
}

/** `order`: all tokens, the likeliest first, where the caller has it already; no filter changes it. */
export function choose(
  logits: ArrayLike<number>,
  settings: Settings,
  never: readonly number[] = [],
  order: readonly number[] = likeliest(logits, logits.length),
): Choice {
  const before = softmax(logits);
  const dropped = new Uint8Array(logits.length);
  const scores = Float64Array.from(logits, (score) => score / settings.temperature);
  const drop = (token: number, why: number): void => {
    if (!dropped[token]) dropped[token] = why;
    scores[token] = -Infinity;
  };
  for (const token of never) if (token < scores.length) drop(token, NEVER);

  const { topK, topP, minP } = settings;
  if (topK > 0 && topK < scores.length) {
    for (const token of order.filter((one) => scores[one] > -Infinity).slice(topK)) drop(token, TOP_K);
  }
  if (topP < 1) {
    const probabilities = softmax(scores);
    let sum = 0; // of all that are likelier: a token stays as long as those before it do not reach p
    for (const token of order) {
      if (sum >= topP) drop(token, TOP_P);
      sum += probabilities[token];
    }
  }
  if (minP > 0) {
    const probabilities = softmax(scores);
    let most = 0;
    for (const probability of probabilities) if (probability > most) most = probability;
    for (let i = 0; i < scores.length; i++) if (probabilities[i] < most * minP) drop(i, MIN_P);
  }
  let kept = 0;
  for (const score of scores) if (score > -Infinity) kept++;
  return { before, after: softmax(scores), dropped, kept };
}

export function likeliest(values: ArrayLike<number>, count: number): number[] {
  const order = Array.from({ length: values.length }, (_, i) => i);
  order.sort((a, b) => values[b] - values[a] || a - b);
  return order.slice(0, count);
}

export function entropy(probabilities: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < probabilities.length; i++) if (probabilities[i] > 0) sum -= probabilities[i] * Math.log(probabilities[i]);
  return sum;
}

/** The same seed and count give the same draw, so that a text can be drawn again (mulberry32, by Tommy Ettinger). */
export function uniform(seed: number, count: number): number {
  const state = (Math.imul(seed, 0x9e3779b1) + Math.imul(count + 1, 0x6d2b79f5)) >>> 0;
  let mixed = Math.imul(state ^ (state >>> 15), state | 1);
  mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
}

export function drawn(probabilities: ArrayLike<number>, draw: number): number {
  let sum = 0;
  for (let i = 0; i < probabilities.length; i++) sum += probabilities[i];
  const wanted = draw * sum;
  let edge = 0;
  for (let i = 0; i < probabilities.length; i++) {
    edge += probabilities[i];
    if (edge > wanted) return i;
  }
  return likeliest(probabilities, 1)[0];
}
