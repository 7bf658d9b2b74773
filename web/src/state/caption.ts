// The caption under what is saved: enough to make it again.

import { captionOf, type Caption } from "../render/save";
import { selection } from "./selection.svelte";
import { session } from "./session.svelte";

export function caption(...first: (string | null | undefined | false)[]): Caption {
  const { model, pass, info } = session;
  return captionOf([
    ...first,
    model && `Model ${model.name}, weights ${pass?.hash ?? model.hash}`,
    pass && `Reads “${pass.text}”${pass.target === null ? "" : `, writes “${pass.target}”`}`,
    pass && pass.edits.length > 0 && `Edited: ${JSON.stringify(pass.edits)}`,
    info && `pellucid ${info.version}, ${selection.link()}`,
  ]);
}
