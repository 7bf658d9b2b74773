import { expect, it } from "vitest";
import { matrixOf, type Query } from "./query";

it("has a picture for every place: what is drawn is kept by its key", () => {
  const place = { pass: "7", site: "blocks.0.self_attention", head: 0, query: 3 };
  const q = [{ name: "q", text: "projected", data: Float32Array.of(1, 2) }];
  const key = (change: object): string => matrixOf({ ...place, keys: [], q, pieces: [], ...change } as unknown as Query, "query").tensor.key;
  const places = [{}, { pass: "8" }, { site: "blocks.1.self_attention" }, { head: 1 }, { query: 2 }];
  expect(new Set(places.map(key)).size).toBe(places.length);
  expect(key({})).toBe(key({}));
});
