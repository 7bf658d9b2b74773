// What is pinned: it stands in the URL, so that a link shows the same thing on another machine.
//
//   selection.view, .model, .text, .target, .edits, .padding, .positions, .tower, .kind, .layer, .head, .query, .key, .stage, .step, .token,
//   .compare                     read anywhere; reactive
//   selection.set({layer: 2})    changes several at once; the URL follows
//   selection.more.temperature   settings of one view, text; selection.setMore({temperature: "0.8"})
//   selection.number("alpha", 0.6, -1, 3)   such a setting as a number between two bounds; 0.6 where there is none
//   selection.link()             the whole address, with the hash of the weights
//   selection.follow()           once, at the start: reads the URL and follows it
//
// The hash is "#1?view=attention&…": the number is the format's. What stands at its default is left out.

import type { Edit, Padding } from "../api/types";

const FORMAT = "1";

interface Pinned {
  view: string;
  /** Key of the model. */
  model: string;
  /** Of the weights that a link was made with; "" until known. */
  hash: string;
  /** null: not chosen yet, so the example of the session. */
  text: string | null;
  /** null: what the model writes itself. */
  target: string | null;
  edits: readonly Edit[];
  padding: Padding | null;
  /** "none": all that tells the model where a token stands is taken out. */
  positions: "own" | "none";
  /** Prefix of the tower: "", "encoder." or "decoder."; null: the first that has what the view shows. */
  tower: string | null;
  kind: "self" | "cross";
  layer: number;
  head: number;
  query: number | null;
  key: number | null;
  /** Of the attention's or the block's computation, as the views name them. */
  stage: string | null;
  /** Of generation. */
  step: number | null;
  /** Id of an answer. */
  token: number | null;
  /** Key of the second model. */
  compare: string | null;
  more: Readonly<Record<string, string>>;
}

const START: Pinned = {
  view: "", model: "main", hash: "", text: null, target: null, edits: [], padding: null, positions: "own", tower: null, kind: "self", layer: 0, head: 0,
  query: null, key: null, stage: null, step: null, token: null, compare: null, more: {},
}; // prettier-ignore

const NUMBERS = new Set(["layer", "head", "query", "key", "step", "token"]);
/** A change of these is a step that the browser's back button undoes. */
const STEPS = new Set(["view", "model", "text", "target", "edits", "padding", "positions"]);

class Selection {
  private pinned = $state.raw<Pinned>(START);

  get view() { return this.pinned.view; }
  get model() { return this.pinned.model; }
  get hash() { return this.pinned.hash; }
  get text() { return this.pinned.text; }
  get target() { return this.pinned.target; }
  get edits() { return this.pinned.edits; }
  get padding() { return this.pinned.padding; }
  get positions() { return this.pinned.positions; }
  get tower() { return this.pinned.tower; }
  get kind() { return this.pinned.kind; }
  get layer() { return this.pinned.layer; }
  get head() { return this.pinned.head; }
  get query() { return this.pinned.query; }
  get key() { return this.pinned.key; }
  get stage() { return this.pinned.stage; }
  get step() { return this.pinned.step; }
  get token() { return this.pinned.token; }
  get compare() { return this.pinned.compare; }
  get more() { return this.pinned.more; } // prettier-ignore

  set(change: Partial<Pinned>): void {
    const changed = Object.entries(change).filter(([name, value]) => this.pinned[name as keyof Pinned] !== value);
    if (!changed.length) return;
    this.pinned = { ...this.pinned, ...change };
    const url = `#${this.written()}`;
    if (url === location.hash) return;
    if (changed.some(([name]) => STEPS.has(name)) && location.hash) history.pushState(null, "", url);
    else history.replaceState(null, "", url);
  }

  setMore(change: Record<string, string | null>): void {
    const more: Record<string, string> = { ...this.pinned.more };
    for (const [name, value] of Object.entries(change)) {
      if (value === null) delete more[name];
      else more[name] = value;
    }
    this.set({ more });
  }

  number(name: string, usual: number, low = -Infinity, high = Infinity): number {
    const given = Number(this.more[name] ?? usual);
    return Number.isFinite(given) ? Math.min(high, Math.max(low, given)) : usual;
  }

  link(): string {
    return `${location.origin}${location.pathname}#${this.written()}`;
  }

  /** Also when the reader goes back; `hear` is told of it. */
  follow(hear: () => void): void {
    this.pinned = read(location.hash);
    addEventListener("popstate", () => {
      this.pinned = read(location.hash);
      hear();
    });
  }

  private written(): string {
    const settings = new URLSearchParams();
    for (const [name, value] of Object.entries(this.pinned)) {
      if (name === "more" || value === START[name as keyof Pinned]) continue;
      if (name === "edits") {
        if (this.pinned.edits.length) settings.set("edits", JSON.stringify(value));
      } else if (name === "padding") settings.set("padding", JSON.stringify(value));
      else if (value !== null) settings.set(name, String(value));
    }
    for (const [name, value] of Object.entries(this.pinned.more)) settings.set(`.${name}`, value);
    return `${FORMAT}?${settings}`;
  }
}

/** A link may come from anywhere: what makes no sense is left at its default. */
export function read(hash: string): Pinned {
  const found = /^#(\d+)\?(.*)$/s.exec(hash);
  if (!found || found[1] !== FORMAT) return START;
  const pinned: Record<string, unknown> = { ...START };
  const more: Record<string, string> = {};
  for (const [name, text] of new URLSearchParams(found[2])) {
    if (name.startsWith(".")) more[name.slice(1)] = text;
    else if (name === "edits") pinned.edits = edits(text);
    else if (name === "padding") pinned.padding = json(text) ?? null;
    else if (name === "positions") pinned.positions = text === "none" ? "none" : "own";
    else if (NUMBERS.has(name)) {
      if (/^\d+$/.test(text)) pinned[name] = Number(text);
    } else if (name === "kind") pinned.kind = text === "cross" ? "cross" : "self";
    else if (name in START && name !== "more") pinned[name] = text;
  }
  return { ...pinned, more } as Pinned;
}

function json(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function edits(text: string): Edit[] {
  const found = json(text);
  return Array.isArray(found) ? found.filter((edit) => typeof edit?.kind === "string") : [];
}

export const selection = new Selection();
