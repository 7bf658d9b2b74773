// What a box of the architecture's figure holds, by its id. No framework.
//
//   partsOf(model, id, boxes)             its parameters
//   tensorsOf(tensors, id, boxes, layer)  the tensors that are tapped in it

import type { ModelInfo, Part, TensorInfo } from "../api/types";

const within = (name: string, path: string): boolean => name === path || name.startsWith(`${path}.`);

/** What stands inside a box and is a box of its own. */
const inner = (id: string, boxes: readonly string[]): string[] => boxes.filter((other) => other !== id && within(other, id));

/** The parts whose parameters a box holds. A bias that all layers share is looked up in self-attention. */
export function partsOf(model: Pick<ModelInfo, "parts">, id: string, boxes: readonly string[]): Part[] {
  const others = inner(id, boxes);
  const shared = id.endsWith("blocks.*.self_attention") ? id.replace("blocks.*.self_attention", "bias") : null;
  return model.parts.filter(({ name }) => {
    if (shared !== null && within(name, shared)) return true;
    return within(name, id) && !others.some((path) => within(name, path));
  });
}

const STATES = /(^|\.)blocks\.\d+\.residual_(pre|mid|cross|post)$/;

/** The tensors that a pass has in a box, of one layer where it is in a block. */
export function tensorsOf(tensors: readonly TensorInfo[], id: string, boxes: readonly string[], layer: number): TensorInfo[] {
  const inLayer = (path: string) => path.replace("*", String(layer));
  if (id.endsWith("stream")) {
    const prefix = id.slice(0, -"stream".length);
    return tensors.filter(({ name }) => name.startsWith(`${prefix}blocks.${layer}.`) && STATES.test(name));
  }
  const path = inLayer(id);
  const others = inner(id, boxes).map(inLayer);
  return tensors.filter(({ name }) => {
    if (others.some((other) => within(name, other))) return false;
    return within(name, path) || (id === "head" && name === "logits");
  });
}
