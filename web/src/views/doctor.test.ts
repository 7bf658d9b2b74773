import { describe, expect, test } from "vitest";
import type { Tower } from "../api/types";
import { counted, mapOf, openingOf, ordered, placeOf, told, type Finding, type Report } from "./doctor";

const finding = (change: Partial<Finding>): Finding => {
  const check = change.check ?? "attn.mask";
  return {
    check, category: check.split(".")[0], status: "FAIL", done: "", seen: "", where: "", cause: "", fix: "", enable: "", references: [], evidence: {}, repro: "", ...change,
  }; // prettier-ignore
};
const tower = (prefix: string, cross = false): Tower => ({ prefix, title: prefix ? (cross ? "Decoder" : "Encoder") : "Decoder", layers: 2, cross }) as Tower;
const one = [tower("")];
const two = [tower("encoder."), tower("decoder.", true)];

describe("the view that shows a finding", () => {
  test("is at the site that the finding names", () => {
    expect(openingOf(finding({ where: "blocks.1.self_attention (Attention, attention.py:40)" }), one)).toMatchObject({
      view: "masking", tower: "", kind: "self", layer: 1, place: "block 1",
    }); // prettier-ignore
    const cross = finding({ check: "attn.scale", seen: "decoder.blocks.0.cross_attention multiplies by 1" });
    expect(openingOf(cross, two)).toMatchObject({ view: "qkv", tower: "decoder.", kind: "cross", layer: 0, place: "block 0 of the decoder" });
    expect(openingOf(finding({ check: "health.ffn", evidence: { dead: { "blocks.1.feed_forward": 1 } } }), one)).toMatchObject({ view: "feedforward", layer: 1 });
  });
  test("is of the tower that is meant where none is named", () => {
    expect(openingOf(finding({ check: "causal.prefix_invariance" }), two)).toMatchObject({ view: "masking", tower: "decoder.", kind: "self", place: "" });
    expect(openingOf(finding({ check: "pad.invariance" }), two)).toMatchObject({ tower: "encoder.", more: { pad: "2,2,left,hidden" } });
    expect(openingOf(finding({ check: "cross.source" }), two)).toMatchObject({ view: "attention", tower: "decoder.", kind: "cross" });
    expect(openingOf(finding({ check: "cross.encoder_alone" }), two)).toMatchObject({ view: "attention", tower: "encoder." });
  });
  test.each([
    ["pos.rope", "positions"], ["health.residual", "residual"], ["kv.parity", "generation"], ["params.sharing", "architecture"],
  ])("%s is shown in %s", (check, view) => expect(openingOf(finding({ check }), one)?.view).toBe(view)); // prettier-ignore
  test.each(["loss.init", "accum.token_weights", "schedule.warmup", "data.labels", "precision.drift", "eval.deterministic"])("%s is shown nowhere", (check) =>
    expect(openingOf(finding({ check }), one)).toBeNull(),
  );
  test("stays within the model", () => {
    expect(openingOf(finding({ where: "blocks.9.self_attention" }), one)).toMatchObject({ layer: 1 });
    expect(openingOf(finding({ where: "encoder.blocks.1" }), one)).toMatchObject({ tower: "", layer: 0, place: "" });
    expect(placeOf(finding({ where: "head (Linear)", seen: "nothing" }))).toBeNull();
  });
});

test("the worst comes first, in the doctor's own order otherwise", () => {
  const all = [finding({ check: "a.a", status: "PASS" }), finding({ check: "b.b", status: "SKIP" }), finding({ check: "c.c" }), finding({ check: "d.d", status: "WARN" }), finding({ check: "e.e" })];
  expect(ordered(all).map(({ check }) => check)).toEqual(["c.c", "e.e", "d.d", "a.a", "b.b"]);
  expect(counted(all)).toEqual({ FAIL: 2, WARN: 1, INCONCLUSIVE: 0, PASS: 1, SKIP: 1 });
});

test("evidence as text", () => {
  expect(told(0.123456)).toBe("0.1235");
  expect(told({ a: 0.123456, b: [1, 2] })).toBe('{"a":0.1235,"b":[1,2]}');
  expect(told("x".repeat(3))).toBe("xxx");
  expect(told("inf")).toBe("∞");
  expect(told(Array.from({ length: 100 }, () => 12345)).length).toBe(161);
});

test("the map of who moves whom, infinities included", () => {
  const report = (map: unknown) => ({ findings: [finding({}), finding({ check: "influence.map", evidence: { map } })] }) as unknown as Report;
  expect(mapOf(report([[1, 0], ["inf", 0.5]]))).toMatchObject({ size: 2, values: [1, 0, Infinity, 0.5] });
  expect(mapOf(report([[1, 0]]))).toBeNull();
  expect(mapOf(report(undefined))).toBeNull();
});
