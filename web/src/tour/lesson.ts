// What a step of the tour is made of. The words are in steps.ts, what is asked of the reader is checked in checks.ts.

import type { ModelInfo, Pass, Tower } from "../api/types";
import type { NumberPlace } from "../state/explain.svelte";
import type { selection } from "../state/selection.svelte";
import type { Site } from "../state/session.svelte";

/** What the reader has chosen, as it is now. */
export interface Place {
  model: ModelInfo;
  pass: Pass;
  tower: Tower;
  site: Site;
  /** Of the attention that is chosen: "decoder.blocks.1.cross_attention". */
  name: string;
  queries: readonly string[];
  keys: readonly string[];
  layer: number;
  head: number;
  query: number | null;
  key: number | null;
  more: Readonly<Record<string, string>>;
  explained: NumberPlace | null;
  /** Of the page itself: what the reader has answered to this step. */
  said: string;
}

/** What a check found: whether it is done, and a sentence with the model's own numbers; null where nothing was done. */
export interface Verdict {
  done: boolean;
  told: string;
}

export type Check = (place: Place, signal: AbortSignal) => Promise<Verdict | null>;

export interface Formula {
  tex: string;
  about: string;
}

type Words<T> = (place: Place) => T;

export interface Step {
  id: string;
  title: string;
  /** The view that the step drives. */
  view: string;
  text: Words<readonly string[]>;
  formulas: readonly Formula[];
  /** What is to be done; null where the open model has nothing of the kind. */
  task: Words<string | null>;
  help: Words<string>;
  /** Answers to choose from, or "number" for one to be written. */
  answers?: readonly string[] | "number";
  /** How the figure begins. */
  start: Words<Parameters<typeof selection.set>[0]>;
  check: Check;
}
