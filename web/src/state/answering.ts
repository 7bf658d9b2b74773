// At which position a model's answer stands.

import type { ModelInfo, Pass } from "../api/types";

export const GAPS = new Set(["<mask>", "[MASK]"]);

/** The position of the gap, of the text's label, or of the last real token; null for a model that answers with a vector. */
export function answerPlace(model: ModelInfo, pass: Pass): number | null {
  if (model.head === "embedding") return null;
  if (model.head === "classification") return 0;
  const { pieces } = pass.writes ?? pass.reads;
  const gap = model.head === "masked" ? pieces.findIndex((piece) => GAPS.has(piece)) : -1;
  if (gap >= 0) return gap;
  const padding = pass.asked.padding;
  const beyond = padding?.side === "left" ? 0 : ((pass.writes ? padding?.writes : padding?.reads) ?? 0);
  return pieces.length - 1 - beyond;
}

/** What the answer is an answer to, in words. */
export function answerOf(model: ModelInfo, pass: Pass, place: number): string {
  if (model.head === "classification") return "label of the text";
  const { pieces } = pass.writes ?? pass.reads;
  if (model.head === "token_classification") return `label of ‘${pieces[place]}’`;
  return model.head === "masked" ? `token at position ${place}, ‘${pieces[place]}’` : `token after ‘${pieces[place]}’`;
}
