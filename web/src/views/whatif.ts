// What the view of what if reckons and says of two texts in the making. No framework.
//
//   spoken(lines)           what each token of a text adds to it
//   common(a, b)            how many tokens two texts begin with alike
//   partingPlace(ids, own, parts)   where in a pass the answer stands that becomes token `parts` of its own text

import type { Written } from "../api/writing";

const HALF = "\ufffd"; // what stands for a character of which not all bytes are there

/** In whole characters; of a token that stands for no text its piece. */
export function spoken(lines: readonly Written[]): string[] {
  let [shown, before] = ["", ""]; // in whole characters, and as it was told
  return lines.map(({ piece, text }, i) => {
    if (text === before && !text.endsWith(HALF)) return piece;
    const whole = i < lines.length - 1 ? text.replace(/\ufffd+$/, "") : text;
    const added = whole.slice(shown.length);
    [shown, before] = [whole, text];
    return added;
  });
}

export function common(a: readonly Written[], b: readonly Written[]): number {
  let same = 0;
  while (same < a.length && same < b.length && a[same].id === b[same].id) same++;
  return same;
}

/** `ids`: what the pass was fed, which begins with what the model did not choose; `own`: its own text, as far as it was told. */
export function partingPlace(ids: readonly number[], own: readonly Written[], parts: number): number | null {
  const written = own.filter(({ ended }) => !ended).map(({ id }) => id);
  const follows = (from: number): boolean => written.length > 0 && ids.slice(from).every((id, i) => i >= written.length || id === written[i]);
  let from = 0;
  while (from < ids.length && !follows(from)) from++;
  const at = from - 1 + parts;
  return at >= 0 && at < ids.length ? at : null;
}
