// What the pointer or the keyboard is at: transient, shared by all pictures, never in the URL. No framework, so that
// moving the pointer re-renders nothing. Listeners hear of a change at most once a frame.
//
//   focus.get()                the current Focus or null
//   focus.set(place, source)   place: any of query, key, layer, head, unit…; null clears, if `source` set it
//   focus.listen(hear)         returns a function that ends it

export interface Focus {
  /** Who set it: a picture that hears its own focus need not move. */
  source: string;
  /** Positions, each in the sequence of its own axis. */
  query?: number;
  key?: number;
  layer?: number;
  head?: number;
  unit?: number;
}

export type Axis = "query" | "key" | "layer" | "head" | "unit";

type Hear = (focus: Focus | null) => void;

let current: Focus | null = null;
let told = false;
const listeners = new Set<Hear>();

function tell(): void {
  told = false;
  for (const hear of listeners) hear(current);
}

export const focus = {
  get: (): Focus | null => current,

  set(place: Omit<Focus, "source"> | null, source: string): void {
    if (place === null && (current === null || current.source !== source)) return;
    current = place === null ? null : { ...place, source };
    if (told) return;
    told = true;
    requestAnimationFrame(tell);
  },

  listen(hear: Hear): () => void {
    listeners.add(hear);
    return () => listeners.delete(hear);
  },
};
