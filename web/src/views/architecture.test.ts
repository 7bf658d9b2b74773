import { expect, test } from "vitest";
import type { HeadKind } from "../api/types";
import { shapeWords } from "./architecture";

// Every name that a model gives its tensors, with as many axes as each has: B, T, D and so on.
const [PER_HEAD, MAP, STATES, POOLED] = [[1, 4, 7, 8], [1, 4, 7, 7], [1, 7, 32], [1, 32]];
const NAMES: Record<string, number[]> = {
  ...Object.fromEntries(["q_projected", "q", "k_projected", "k_new", "v_new", "k", "v", "context", "query_norm.out", "key_norm.out"].map((name) => [`blocks.0.self_attention.${name}`, PER_HEAD])),
  ...Object.fromEntries(["mask", "scores", "weights"].map((name) => [`decoder.blocks.0.cross_attention.${name}`, MAP])),
  ...Object.fromEntries(["tokens", "types", "typed", "patches", "classed", "narrow_pre", "narrow_hidden", "stride_pre", "positions", "norm.out", "out"].map((name) => [`embedding.${name}`, STATES])),
  ...Object.fromEntries(["residual_pre", "residual_mid", "residual_cross", "residual_post", "self_attention.out", "self_attention_residual.sum", "feed_forward_residual.before.out", "feed_forward.gate", "feed_forward.pre", "feed_forward.hidden", "feed_forward.out"].map((name) => [`blocks.1.${name}`, STATES])),
  "final_norm.out": STATES,
};
const HEADS: Record<HeadKind, Record<string, number[]>> = {
  language: { "head.scaled": STATES, "head.projected": STATES, "head.capped": STATES, logits: STATES },
  masked: { "head.dense": STATES, "head.activated": STATES, "head.norm.out": STATES, "head.projected": STATES, logits: STATES },
  classification: { "head.pooled": POOLED, "head.dense": POOLED, "head.activated": POOLED, "head.projected": POOLED, logits: POOLED },
  token_classification: { "head.projected": STATES, logits: STATES },
  embedding: { "head.pooled": POOLED, "head.dense": POOLED, "head.activated": POOLED, "head.unit": POOLED, logits: POOLED },
};

test.each(Object.keys(HEADS) as HeadKind[])("every axis has a word: %s", (head) => {
  for (const [name, shape] of Object.entries({ ...NAMES, ...HEADS[head] })) {
    expect(shapeWords({ name, shape }, head).split(", "), name).toHaveLength(shape.length);
  }
});

test("an answer is of tokens, labels or features, as the head has it", () => {
  const told = (head: HeadKind): string => shapeWords({ name: "logits", shape: HEADS[head].logits }, head);
  expect(told("language")).toBe("text, position, token of the vocabulary");
  expect(told("classification")).toBe("text, label");
  expect(told("token_classification")).toBe("text, position, label");
  expect(told("embedding")).toBe("text, feature");
});
