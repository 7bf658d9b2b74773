// Where the norms of a model stand, in words and in its figure. No framework.

import type { NormInfo, NormSteps } from "../api/inside";

export interface Place {
  info: NormInfo;
  tower: string;
  layer: number | null;
  /** As the figure calls it, or null for norms inside attention and heads. */
  box: string;
  title: string;
}
const SUBLAYER: Record<string, string> = { self_attention: "self-attention", cross_attention: "cross-attention", feed_forward: "feed-forward" };

export function placed(info: NormInfo): Place {
  const path = info.name.replace(/\.out$/, "");
  const tower = /^(encoder\.|decoder\.)?/.exec(path)![1] ?? "";
  const found = /blocks\.(\d+)\.(\w+?)(_residual)?\.(\w+)$/.exec(path);
  const kind = info.centred ? "Layer norm" : "RMS norm";
  const whose = tower ? `, ${tower.slice(0, -1)}` : "";
  const box = path.replace(/blocks\.\d+\./, "blocks.*.");
  if (!found) {
    const where = path.endsWith("final_norm") ? "after the last layer" : path === "head.norm" ? "inside the head" : "on the embedding";
    return { info, tower, layer: null, box, title: `${kind} ${where}${path === "head.norm" ? "" : whose}` };
  }
  const [, layer, sublayer, residual, which] = found;
  const where = residual
    ? { before: "before", output: "on the output of", after: "after the sum of" }[which]
    : which === "query_norm" ? "on the queries of" : "on the keys of"; // prettier-ignore
  return { info, tower, layer: Number(layer), box, title: `${kind} ${where} ${SUBLAYER[sublayer]}, layer ${layer}${whose}` };
}

/** The norm that is looked at: the one that is named, else the first of a layer, in a tower or (null) in any. */
export function shownOf(places: readonly Place[], name: string | undefined, layer: number, tower: string | null): Place | null {
  const here = (place: Place): boolean => place.layer === layer && (tower === null || place.tower === tower);
  return places.find(({ info }) => info.name === name) ?? places.find(here) ?? places[0] ?? null;
}

export const PLACEMENT = {
  pre: "Pre-norm: each norm stands before its sub-layer. The sub-layer reads a normed copy; the stream itself is never rescaled, so it grows as layers add to it, and only the last norm brings it back.",
  post: "Post-norm, as in 2017: each norm stands behind the sum, on the stream itself. After every sub-layer all that was written so far is rescaled, so the stream keeps its size, and what was written early counts less and less.",
  both: "Both: a norm before each sub-layer and one on what it writes. The sub-layer reads a normed copy and can add only so much; the stream itself is never rescaled.",
};

/** One norm at one place, step by step: vectors of as many numbers as are normed together. */
export interface Normed {
  id: string;
  place: Place;
  at: number[];
  told: NormSteps;
  size: number;
  vectors: Record<"before" | "standard" | "gain" | "bias" | "after", Float32Array>;
}
