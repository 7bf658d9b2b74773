// The views, in the order of the rail. To add one: write views/Name.svelte, and add an entry to `ALL` below.
//
// A view is a component without props. It reads `selection` and `session`, shows what they say, and changes the selection.
// Its file is fetched when it is first opened.

import type { Component } from "svelte";
import type { ModelInfo, SessionInfo } from "../api/types";

export type Group = "Overview" | "Inside" | "Doing" | "Runs" | "Learn";

export interface View {
  /** In the URL. */
  id: string;
  title: string;
  group: Group;
  /** One sentence on what is seen; stands below the title. */
  about: string;
  load: () => Promise<{ default: Component }>;
  /** None of its numbers is of a tensor: the panel that explains them makes room. */
  alone?: boolean;
  /** It needs the room: the panel that explains is there only while it explains. */
  wide?: boolean;
  /** Where it applies; left out, everywhere. What does not apply is not in the rail. */
  when?: (model: ModelInfo, session: SessionInfo) => boolean;
}

export const GROUPS: readonly Group[] = ["Overview", "Inside", "Doing", "Runs", "Learn"];

// prettier-ignore
const ALL: readonly View[] = [
  { id: "architecture", title: "Architecture", group: "Overview", about: "The whole model, from the tokens at the bottom to the answer at the top. Click a part to go in.", wide: true, load: () => import("./Architecture.svelte") },
  { id: "tokens", title: "Tokens and embeddings", group: "Inside", about: "How the text is cut, and the vector that each piece becomes.", load: () => import("./Tokens.svelte") },
  { id: "positions", title: "Positions", group: "Inside", about: "How the model is told where a token stands.", load: () => import("./Positions.svelte") },
  { id: "attention", title: "Attention", group: "Inside", about: "Who attends to whom: every head, every weight.", load: () => import("./Attention.svelte") },
  { id: "qkv", title: "Query, key, value", group: "Inside", about: "One query of one head, step by step, in the model’s own numbers.", load: () => import("./QueryKeyValue.svelte") },
  { id: "masking", title: "Masking", group: "Inside", about: "Who may look where, as it was applied, and what happens when it is changed.", load: () => import("./Masking.svelte") },
  { id: "norm", title: "Layer norm", group: "Inside", about: "A vector before and after a norm: mean, variance, scale and shift.", load: () => import("./Norm.svelte") },
  { id: "feedforward", title: "Feed-forward", group: "Inside", about: "The units of a layer: what each responds to, how active it is, what it promotes.", load: () => import("./FeedForward.svelte") },
  { id: "residual", title: "Residual stream", group: "Inside", about: "What each layer would answer, and what every part added to the answer.", load: () => import("./Residual.svelte") },
  { id: "generation", title: "Generation", group: "Doing", about: "Writing token by token: the cache growing, the whole distribution, the draw, and the ways not taken.", when: (model) => model.reads === "text", load: () => import("./Generation.svelte") },
  { id: "whatif", title: "What if", group: "Doing", about: "Change something inside – a head, a layer, a word – and see the answer, the text and the stream change.", load: () => import("./WhatIf.svelte") },
  { id: "doctor", title: "Doctor", group: "Doing", about: "What is wrong with this model: laws that a healthy Transformer keeps, the cause of each that is broken, and where it shows.", alone: true, load: () => import("./Doctor.svelte") },
  { id: "training", title: "Training", group: "Runs", about: "How the model came to be: the loss, what it wrote, and the same head at every checkpoint.", load: () => import("./Training.svelte") },
  { id: "compare", title: "Compare", group: "Runs", about: "Two models, checkpoints or passes in step: where they first part, and by how much.", load: () => import("./Compare.svelte") },
  { id: "size", title: "Size", group: "Runs", about: "What a model of any size has and costs: parameters, arithmetic, memory, time.", alone: true, load: () => import("./Size.svelte") },
  { id: "learn", title: "Learn", group: "Learn", about: "A guided tour at the model that is open: what each part does, why it is there, and something to try.", load: () => import("./Learn.svelte") },
];

export const views = (model: ModelInfo | null, session: SessionInfo | null): View[] =>
  ALL.filter((view) => !view.when || (model !== null && session !== null && view.when(model, session)));
