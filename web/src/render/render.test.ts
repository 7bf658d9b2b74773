import { describe, expect, it } from "vitest";
import { decode, fromNumbers } from "../api/tensor";
import { strongest } from "./arcs";
import { ink, table, type MapName, type Theme } from "./colour";
import { HIDDEN, levels, NOT_A_NUMBER, pooled, type Shading } from "./levels";
import { address, brief, parsed, piece, printed, toNumber } from "./numbers";
import { csv, npy, shortest, wrapped } from "./save";

const plain: Shading = { map: "sequential", scale: "linear", normalise: "global" };
const luminance = (colour: number) => {
  const [r, g, b] = [colour & 255, (colour >> 8) & 255, (colour >> 16) & 255].map((part) => {
    const value = part / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const both: Theme[] = ["light", "dark"];
const maps: MapName[] = ["sequential", "diverging"];

describe("colours", () => {
  it.each(both)("of the sequential map read in grey (%s)", (theme) => {
    const grey = Array.from(table("sequential", theme), luminance);
    const turn = theme === "light" ? -1 : 1;
    for (let i = 1; i < 256; i++) expect(turn * (grey[i] - grey[i - 1])).toBeGreaterThan(-0.004);
    expect(Math.abs(grey[255] - grey[0])).toBeGreaterThan(0.6);
  });

  it.each(both)("of the diverging map are alike on both sides (%s)", (theme) => {
    const grey = Array.from(table("diverging", theme), luminance);
    for (let i = 0; i < 128; i++) expect(Math.abs(grey[i] - grey[255 - i])).toBeLessThan(0.12);
  });

  it.each(both.flatMap((theme) => maps.map((map) => [theme, map] as const)))("can be written on (%s, %s)", (theme, map) => {
    for (let i = 0; i < 256; i++) {
      const [a, b] = [luminance(table(map, theme)[i]), ink(map, theme, i / 255) === "#000" ? 0 : 1].sort((x, y) => y - x);
      expect((a + 0.05) / (b + 0.05)).toBeGreaterThan(4.5);
    }
  });
});

describe("levels", () => {
  it("span from nothing to the largest", () => {
    expect(Array.from(levels(fromNumbers("t", [1, 3], [0, 0.25, 0.5]), plain))).toEqual([0, 128, 255]);
  });

  it("of eight bits are those of the numbers they stand for", () => {
    const codes = decode("t", Uint8Array.from([0, 50, 100, 255]).buffer, "sqrt8", [2, 2], 0, 0.7);
    const exact = fromNumbers("u", [2, 2], Array.from(codes.data));
    for (const scale of ["linear", "log"] as const) {
      expect(Array.from(levels(codes, { ...plain, scale }))).toEqual(Array.from(levels(exact, { ...plain, scale })));
    }
  });

  it("are neutral at 0 where both signs occur", () => {
    const found = levels(fromNumbers("t", [1, 3], [-2, 0, 1]), { ...plain, map: "diverging" });
    expect(Array.from(found)).toEqual([0, 128, 191]);
  });

  it("tell what is hidden and what is no number", () => {
    const tensor = fromNumbers("t", [1, 4], [-Infinity, NaN, 1, 1]);
    expect(Array.from(levels(tensor, plain, Uint8Array.from([0, 0, 0, 1])))).toEqual([HIDDEN, NOT_A_NUMBER, 255, HIDDEN]);
  });

  it("of a row alone", () => {
    const tensor = fromNumbers("t", [2, 2], [0, 1, 0, 0.1]);
    expect(Array.from(levels(tensor, { ...plain, normalise: "row" }))).toEqual([0, 255, 0, 255]);
  });

  it("are pooled so that the strongest is seen", () => {
    const made = Uint16Array.from([0, 9, HIDDEN, HIDDEN, 3, 0, HIDDEN, NOT_A_NUMBER]);
    expect(Array.from(pooled(made, 2, 4, 1, 2, "sequential"))).toEqual([9, NOT_A_NUMBER]);
    expect(Array.from(pooled(Uint16Array.from([120, 20, 140, 130]), 1, 4, 1, 2, "diverging"))).toEqual([20, 140]);
  });
});

it("draws each query's strongest keys only", () => {
  const tensor = fromNumbers("t", [2, 4], [0.1, 0.5, 0.3, 0.1, 1, 0, 0, 0]);
  expect(strongest(tensor, 2)).toEqual([
    { query: 0, key: 1, weight: Math.fround(0.5) },
    { query: 0, key: 2, weight: Math.fround(0.3) },
    { query: 1, key: 0, weight: 1 },
  ]);
});

describe("numbers", () => {
  it("as text", () => {
    expect([0, 1, -0.25, 1 / 3, 1e-9, -Infinity, NaN, 123456789].map((value) => printed(value, 4))).toEqual(
      ["0", "1", "−0.25", "0.3333", "1e−9", "−∞", "NaN", "1.235e8"],
    ); // prettier-ignore
    expect([0, 0.004, 0.5, 0.999, -2.345, 123.4, 1e6].map(brief)).toEqual(["0", ".00", ".50", "1.0", "−2.3", "123", "1e6"]);
    expect(["inf", "-inf", "nan", 2].map((value) => toNumber(value as never))).toEqual([Infinity, -Infinity, NaN, 2]);
  });

  it("have addresses that lead back", () => {
    const there = { name: "decoder.blocks.1.cross_attention.q@3", index: [0, 2, -1] };
    expect(parsed(address(there.name, there.index))).toEqual(there);
    expect(parsed("no address")).toBeNull();
  });

  it("stand beside pieces whose spaces are seen", () => {
    expect(piece(" a\n")).toBe("␣a⏎");
    expect(piece("")).toBe("∅");
  });
});

describe("files", () => {
  const tensor = fromNumbers("t", [2, 3], [0.1, -1 / 3, 1e-30, NaN, -Infinity, 7]);

  it("of NumPy have a header of a multiple of 64 and float32", () => {
    const bytes = npy(tensor);
    const length = bytes[8] + 256 * bytes[9];
    expect((10 + length) % 64).toBe(0);
    const header = new TextDecoder().decode(bytes.slice(10, 10 + length));
    expect(header).toMatch(/^\{'descr': '<f4', 'fortran_order': False, 'shape': \(2, 3\), \} *\n$/);
    expect(Array.from(new Float32Array(bytes.slice(10 + length).buffer))).toEqual(Array.from(tensor.data));
  });

  it("of text read back as the same float32", () => {
    for (const value of tensor.data) expect(Object.is(Math.fround(Number(shortest(value).replace("inf", "Infinity"))), value)).toBe(true);
    const lines = csv(tensor, ["a", 'b,"c"'], ["x", "y", "z"], ["what", "two\nlines"]).split("\n");
    expect(lines).toEqual(["# what", "# two lines", ",x,y,z", "a,0.1,-0.33333334,1e-30", '"b,""c""",nan,-inf,7', ""]);
  });

  it("have captions no wider than the picture", () => {
    const lines = wrapped(["a ".repeat(100).trim()], 200);
    expect(lines.join(" ")).toBe("a ".repeat(100).trim());
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(32);
  });
});
