// Masks and padding in words and in the URL. No framework.

import type { Edit, Padding } from "../api/types";
import type { MaskTold } from "../api/words";
import { piece } from "../render/numbers";

export const isMask = (edit: Edit): boolean => "name" in edit && edit.name.endsWith(".mask");

/** In the URL as "3,2,right,hidden"; none is no padding. */
export function paddingOf(text: string): Required<Padding> {
  const [reads, writes, side, hidden] = text.split(",");
  const size = (text: string | undefined) => Math.min(32, Math.max(0, Math.floor(Number(text)) || 0));
  return { reads: size(reads), writes: size(writes), side: side === "left" ? "left" : "right", hidden: hidden !== "seen" };
}

/** null: no padding. */
export function paddingText(padding: Required<Padding>): string | null {
  const text = `${padding.reads},${padding.writes},${padding.side},${padding.hidden ? "hidden" : "seen"}`;
  return text === "0,0,right,hidden" ? null : text;
}

/** An edit of a mask in words; queries and keys are the pieces of its rows and columns. */
export function inWords(edit: Edit, queries: readonly string[], keys: readonly string[]): string {
  if (!("name" in edit)) return "";
  const place = edit.name.replace(/\.mask$/, "").replace("blocks.*.", "every block’s ").replace("_", "-");
  const token = (texts: readonly string[], i: number): string => `‘${piece(texts[i] ?? "")}’ (${i})`;
  if (edit.kind === "mask") return `${place}: ${edit.window ? `a window of ${edit.window}` : edit.causal ? "the past alone is seen" : "everything is seen"}`;
  if (edit.kind !== "replace") return `${place}: ${edit.kind}`;
  const query = edit.positions ? token(queries, edit.positions[0]) : "every query";
  if (!edit.units) return `${place}: ${query} sees ${edit.value ? "everything" : "nothing"}`;
  return `${place}: ${query} ${edit.value ? "sees" : "no longer sees"} ${token(keys, edit.units[0])}`;
}

/** A rule in words, as the end of a sentence. */
export function ruleWords({ rule }: MaskTold): string {
  const parts: string[] = [];
  if (rule.cross) parts.push("every token that is written may look at every token of the source");
  else if (rule.causal) parts.push(rule.window ? `each token sees itself and the ${rule.window - 1} before it` : "each token sees itself and what came before, never the future");
  else parts.push(rule.window ? `each token sees what is nearer than ${rule.window}` : "every token sees every other");
  if (rule.padding) parts.push("nobody sees padding, and padding sees nobody");
  return parts.join("; ");
}
