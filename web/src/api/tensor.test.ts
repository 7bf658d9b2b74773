import { describe, expect, it } from "vitest";
import { decode, fromNumbers, matrixOf } from "./tensor";
import { canonical, query, written } from "./client";

describe("what comes over the wire", () => {
  it("is exact as f32", () => {
    const sent = Float32Array.from([0.1, -1 / 3, 1e-30, -Infinity, NaN, 3.4e38]);
    const got = decode("k", sent.buffer, "f32", [2, 3], -1, 3.4e38);
    expect(Array.from(got.data)).toEqual(Array.from(sent));
    expect(got.isExact).toBe(true);
    expect(got.size).toBe(6);
  });

  it("keeps small weights apart as sqrt8", () => {
    const got = decode("k", Uint8Array.from([0, 1, 128, 255]).buffer, "sqrt8", [4], 0, 0.5);
    expect(Array.from(got.data)).toEqual([0, (1 / 255) ** 2 * 0.5, (128 / 255) ** 2 * 0.5, 0.5].map(Math.fround));
    expect(got.isExact).toBe(false);
  });

  it("has both signs as sym8", () => {
    const got = decode("k", Int8Array.from([-127, 0, 64, 127]).buffer, "sym8", [4], -2, 2);
    expect(Array.from(got.data)).toEqual([-2, 0, (64 / 127) * 2, 2].map(Math.fround));
  });
});

it("cuts a matrix out of a stack without copying", () => {
  const stack = fromNumbers("s", [2, 2, 2], [1, 2, 3, 4, 5, 6, 7, 8]);
  const second = matrixOf(stack, 1);
  expect(Array.from(second.data)).toEqual([5, 6, 7, 8]);
  expect(second.data.buffer).toBe(stack.data.buffer);
  expect(second.key).not.toBe(matrixOf(stack, 0).key);
});

it("knows the range of the finite numbers", () => {
  const found = fromNumbers("s", [3], [-Infinity, 2, NaN]);
  expect([found.low, found.high]).toEqual([2, 2]);
});

describe("addresses", () => {
  it("are readable and unambiguous", () => {
    expect(written([0, 3, ":", [2, 5]])).toBe("0,3,:,2:5");
    expect(query({ name: "a.b@3", at: "0,:", none: undefined, sites: ["x", "y&z"] })).toBe("?name=a.b%403&at=0,:&sites=x&sites=y%26z");
    expect(query({})).toBe("");
  });

  it("of a request do not depend on who wrote it", () => {
    expect(canonical({ b: [1, { d: null, c: "ü" }], a: true, e: undefined })).toBe('{"a":true,"b":[1,{"c":"ü","d":null}]}');
  });
});
