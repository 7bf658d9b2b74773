import { expect, it } from "vitest";
import type { ScoresTold } from "../api/words";
import { rescaled, softmax, sumsOf } from "./queryKeyValue";

const told: ScoresTold = {
  scale: 0.5,
  softcap: null,
  group: 0,
  groups: 1,
  keys: [
    { sum: 4, steps: [{ name: "× 0.5", value: 2 }, { name: "+ bias", value: 1.5 }], captured: 1.5 },
    { sum: 2, steps: [{ name: "× 0.5", value: 1 }, { name: "+ bias", value: 1 }], captured: "-inf" },
  ],
}; // prettier-ignore

it("multiplies sums, and leaves bias and mask as they are", () => {
  const sums = sumsOf(told);
  expect(sums).toEqual([{ sum: 4, bias: -0.5, hidden: false }, { sum: 2, bias: 0, hidden: true }]); // prettier-ignore
  expect(rescaled(sums, told.scale, null)).toEqual([1.5, -Infinity]);
  expect(rescaled(sums, 2, null)).toEqual([7.5, -Infinity]);
  expect(softmax(rescaled(sums, 2, null))).toEqual([1, 0]);
});
