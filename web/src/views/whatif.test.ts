import { expect, test } from "vitest";
import type { Written } from "../api/writing";
import { common, partingPlace, spoken } from "./whatif";

const line = (id: number, piece: string, text: string, ended = false): Written => ({ id, piece, text, ended });

test("a character of several tokens is shown whole, where it is whole", () => {
  const lines = [line(1, "a", "a"), line(2, "\\xf0\\x9f", "a\ufffd"), line(3, "\\x98", "a\ufffd"), line(4, "\\x80", "a😀"), line(5, "</s>", "a😀", true)];
  expect(spoken(lines)).toEqual(["a", "", "", "😀", "</s>"]);
  expect(spoken(lines.slice(0, 2))).toEqual(["a", "\ufffd"]);
});

test("a token that stands for no text is shown by its piece", () => {
  expect(spoken([line(0, "<s>", ""), line(1, "a", "a"), line(0, "<s>", "a"), line(1, "b", "ab")])).toEqual(["<s>", "a", "<s>", "b"]);
});

test("texts part at the answer after all that they have in common, however many tokens either was told", () => {
  const told = (...ids: number[]): Written[] => ids.map((id) => line(id, "", ""));
  expect(common(told(7, 8, 9), told(7, 8, 5))).toBe(2);
  for (const count of [3, 4, 6]) expect(partingPlace([1, 7, 8, 9, 6], told(7, 8, 9, 6, 5, 4).slice(0, count), 2)).toBe(2);
  expect(partingPlace([1, 7, 8], [...told(7, 8), line(2, "</s>", "", true)], 2)).toBe(2);
  expect(partingPlace([1], [line(2, "</s>", "", true)], 0)).toBe(0);
  expect(partingPlace([1, 7], told(7, 8, 9), 3)).toBe(null);
});
