import { expect, it } from "vitest";
import type { Pass } from "./types";
import { whatif } from "./writing";

it("asks for a pass again as it was asked for, without its edits", () => {
  const asked = { text: "the cat", target: "a dog", edits: [{ kind: "skip" as const, layer: "blocks.0" }] };
  const pass = { id: "7", model: "other", asked } as unknown as Pass;
  expect(whatif.asked(pass)).toEqual({ model: "other", ...asked });
  expect(whatif.plain(pass)).toEqual({ model: "other", text: "the cat", target: "a dog" });
  expect(whatif.plain({ ...pass, asked: {} })).toEqual({ model: "other", text: "" });
});
