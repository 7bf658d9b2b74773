import { expect, it } from "vitest";
import { read } from "./selection.svelte";

it("reads what a link pins", () => {
  const found = read('#1?view=attention&layer=2&query=0&kind=cross&edits=[{"kind":"skip","layer":"blocks.0"}]&.rank=sink');
  expect(found).toMatchObject({ view: "attention", layer: 2, query: 0, kind: "cross", key: null, more: { rank: "sink" } });
  expect(found.edits).toEqual([{ kind: "skip", layer: "blocks.0" }]);
});

it.each(["", "#", "#2?view=x", "#1?layer=-1&head=x&query=1e9&edits=[[&kind=zzz&nothing=1&padding={", "#1?edits=7"])("survives %s", (hash) => {
  const found = read(hash);
  expect(found).toMatchObject({ layer: 0, head: 0, query: null, edits: [], kind: "self", padding: null });
});
