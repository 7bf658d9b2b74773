// The caption under what is saved: enough to make it again.

import { captionOf, type Caption } from "../render/save";
import { selection } from "./selection.svelte";
import { session } from "./session.svelte";

export function caption(...first: (string | null | undefined | false)[]): Caption {
  const { model, pass, info } = session;
  return captionOf([
    ...first,
    model && `Model ${model.name}, weights ${pass?.hash ?? model.hash}`,
    pass && `Reads “${pass.asked.text ?? ""}”${pass.writes ? `, writes “${pass.writes.pieces.join("")}”` : ""}`,
    pass?.asked.edits?.length ? `Edited: ${JSON.stringify(pass.asked.edits)}` : null,
    info && `pellucid ${info.version}, ${selection.link()}`,
  ]);
}
