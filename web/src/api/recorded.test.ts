import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { forget, getJson, getTensor } from "./client";

const base64 = (data: Float32Array): string => btoa(String.fromCharCode(...new Uint8Array(data.buffer)));
const numbers = Float32Array.from({ length: 24 }, (_, i) => i / 8);

beforeEach(() => {
  vi.stubGlobal("window", {});
  forget();
});

afterEach(() => {
  vi.unstubAllGlobals();
});

function exported(): void {
  window.__pellucid__ = {
    answers: { "GET /api/passes/7/answers?position=1&top=3": { json: 5 }, "GET /api/x?a=1:2,é&a=2": { json: 6 } },
    tensors: {
      "7": {
        scores: { shape: [1, 3], octets: base64(Float32Array.of(-Infinity, -Infinity, 2)) },
        x: { shape: [1, 2, 3, 4], octets: base64(numbers) },
        coarse: { shape: [1, 4], octets: btoa(String.fromCharCode(0, 127, 255, 51)), encoding: "sqrt8", high: 2 },
      },
      "8": {
        scores: { shape: [1, 3], octets: base64(Float32Array.of(-Infinity, 1, 5)) },
        x: { shape: [1, 2, 3, 4], octets: base64(numbers.map((value) => 2 * value)) },
      },
    },
  };
}

it("takes parameters in any order, escaped or not", async () => {
  exported();
  expect(await getJson("/api/passes/7/answers?top=3&position=1")).toBe(5);
  expect(await getJson("/api/x?a=2&a=1%3A2%2C%C3%A9")).toBe(6);
});

it.each([
  ["0,1,2,:", [4], [20, 21, 22, 23]],
  ["0,-1,:,1", [3], [13, 17, 21]],
  ["0,0,1:3,0:2", [2, 2], [4, 5, 8, 9]],
  ["0,1,2,3", [], [23]],
])("cuts %s out of a whole tensor", async (at, shape, expected) => {
  exported();
  const cut = await getTensor(`/api/passes/7/tensor?name=x&at=${at}&encoding=f32`, "f32");
  expect(cut.shape).toEqual(shape);
  expect([...cut.data]).toEqual(expected.map((value) => value / 8));
  expect(cut.isExact).toBe(true);
  expect([cut.low, cut.high]).toEqual([expected[0] / 8, expected.at(-1)! / 8]);
});

it("subtracts one pass from another", async () => {
  exported();
  const cut = await getTensor("/api/passes/7/tensor?name=x&at=0,0,0,:&encoding=sym8&minus=8", "sym8");
  expect([...cut.data]).toEqual([0, -1 / 8, -2 / 8, -3 / 8]);
  const hidden = await getTensor("/api/passes/7/tensor?name=scores&at=0,:&encoding=f32&minus=8", "f32");
  expect([...hidden.data]).toEqual([0, -Infinity, -3]); // what a mask hides in both does not differ
});

it("never prints a number of eight bits", async () => {
  exported();
  const cut = await getTensor("/api/passes/7/tensor?name=coarse&at=0,:&encoding=sqrt8", "sqrt8");
  expect(cut.data[2]).toBe(2);
  expect(cut.isExact).toBe(false);
  await expect(getTensor("/api/passes/7/tensor?name=coarse&at=0,:&encoding=f32", "f32")).rejects.toThrow("exported without");
  await expect(getTensor("/api/passes/7/tensor?name=y&at=0&encoding=f32", "f32")).rejects.toThrow("exported without");
});
