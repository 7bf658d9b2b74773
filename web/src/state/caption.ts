// The caption under what is saved: enough to make it again.
//
//   caption(…lines)            of the pass that the page shows
//   captionFor(slice, …lines)  of a part of a tensor: of another pass, it may be, or of the difference from one

import { passOf, type Slice } from "../api/client";
import type { Pass } from "../api/types";
import { captionOf, type Caption } from "../render/save";
import { selection } from "./selection.svelte";
import { session } from "./session.svelte";

type Line = string | null | undefined | false;

export function caption(...first: Line[]): Caption {
  const { model, pass } = session;
  return signed([...first, ...(pass ? about(pass) : [model && `Model ${model.name}, weights ${model.hash}`])]);
}

export function captionFor(slice: Slice | null, ...first: Line[]): Caption {
  if (!slice) return caption(...first);
  return signed([...first, ...known(slice.pass), ...(slice.minus ? ["Less the same of:", ...known(slice.minus)] : [])]);
}

const signed = (lines: Line[]): Caption =>
  captionOf([...lines, session.info && `pellucid ${session.info.version}, ${selection.link()}`]);

function known(id: string): Line[] {
  const pass = passOf(id);
  return pass ? about(pass) : [`Pass ${id}`];
}

/** What it was a pass of; one over another's tokens has no text of its own. */
function about({ model: key, hash, asked, reads, writes }: Pass): Line[] {
  const { info, model } = session;
  const name = (model?.key === key ? model : info?.models.find((one) => one.key === key))?.name ?? key;
  return [
    `Model ${name}, weights ${hash}`,
    `Reads “${asked.text || reads.pieces.join("")}”${writes ? `, writes “${writes.pieces.join("")}”` : ""}`,
    asked.edits?.length ? `Edited: ${JSON.stringify(asked.edits)}` : null,
    asked.padding ? `Padded: ${JSON.stringify(asked.padding)}` : null,
    asked.positions === "none" ? "Positions are taken out" : null,
  ];
}
