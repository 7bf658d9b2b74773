import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { forget } from "../api/client";
import { Tensor } from "../api/tensor";
import { exactOf, fileOf, knownOf, type Shown } from "./matrix";

let asked: { path: string; answer: (value: number) => void; fail: () => void }[] = [];

beforeEach(() => {
  asked = [];
  vi.stubGlobal("window", {});
  vi.stubGlobal("fetch", (path: string) =>
    new Promise((resolve, reject) => {
      const headers = { "X-Shape": "1,1", "X-Low": "0", "X-High": "1" };
      const answer = (value: number) => resolve(new Response(Float32Array.of(value).buffer, { headers }));
      asked.push({ path, answer, fail: () => reject(new TypeError("no network")) });
    }),
  );
});

afterEach(() => {
  forget();
  vi.unstubAllGlobals();
});

/** One head of a large matrix, which came in eight bits. */
function shown(head: number): Shown {
  const tensor = new Tensor(`head ${head}`, [1, 1], "sqrt8", Uint8Array.of(0), null, 0, 1);
  return { tensor, slice: { pass: "1", name: "weights", at: [0, head, ":", ":"] }, rows: ["a"], columns: ["a"] };
}

it("never takes the exact numbers of one head for those of the next", async () => {
  const [first, second] = [shown(0), shown(1)];
  const [one, two] = [exactOf(first), exactOf(second)];
  expect(asked.map(({ path }) => /at=([\d,]+)/.exec(path)![1])).toEqual(["0,0,", "0,1,"]);
  asked[1].answer(2);
  asked[0].answer(1);
  expect([(await one).data[0], (await two).data[0]]).toEqual([1, 2]);
  expect([first, second].map((each) => knownOf(each)?.data[0])).toEqual([1, 2]);
  expect(knownOf(shown(0))).toBeNull();
});

it("asks once, and once more after a failure", async () => {
  const one = shown(0);
  const refused = expect(exactOf(one)).rejects.toThrow("it does not answer");
  void exactOf(one).catch(() => undefined);
  expect(asked).toHaveLength(1);
  asked[0].fail();
  await refused;
  expect(knownOf(one)).toBeNull();
  const again = exactOf(one);
  asked[1].answer(3);
  expect((await again).data[0]).toBe(3);
});

it("names a file for each pass and each difference", () => {
  const slice = { pass: "1", name: "weights", at: [0, 2, ":", ":"] } as const;
  const names = [slice, { ...slice, pass: "2" }, { ...slice, minus: "2" }].map(fileOf);
  expect(new Set(names).size).toBe(3);
});
