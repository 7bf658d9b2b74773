// What the architecture view says of each kind of part, and where it leads.

import type { HeadKind, ModelInfo, TensorInfo, Tower } from "../api/types";
import { functionName, vocabularyOf, whole, type Drawing, type Role } from "../render/architecture";

type Told = (tower: Tower, model: ModelInfo, id: string) => string;

const POSITIONS: Record<string, string> = {
  sinusoidal: "Sines and cosines of the position, of many wavelengths, are added to every vector. Nothing of it is learned.",
  learned: "A learned vector for each position is added to the token’s.",
};

const INSIDE: Record<string, string> = {
  rotary: " Queries and keys are turned by an angle that grows with the position, so that their product depends on the distance.",
  alibi: " Each head takes a penalty that grows with the distance off the scores.",
  relative_bias: " A learned bias for the distance is added to the scores; all layers share it.",
};

const WHERE: Record<string, string> = {
  before: "It stands before its sub-layer: the sub-layer reads a normed copy, and the stream itself is left as it is.",
  output: "It stands on what the sub-layer wrote, before that is added to the stream.",
  after: "It stands behind the sum, on the stream itself: everything written so far passes through it and is rescaled.",
};

const heads = ({ num_heads, num_kv_heads, head_dim }: Tower): string =>
  `${num_heads} head${num_heads > 1 ? "s" : ""} of ${head_dim} numbers work side by side` +
  (num_kv_heads < num_heads ? `; ${num_heads / num_kv_heads} of them share each of the ${num_kv_heads} keys and values` : "");

export const ABOUT: Record<Role, Told> = {
  embedding: ({ front, d_model }) => {
    if (front.kind === "patches") return `The image is cut into squares; each becomes a vector of ${whole(d_model)} numbers by one matrix.`;
    if (front.kind === "audio") return `Two convolutions turn the spectrogram into vectors of ${whole(d_model)} numbers.`;
    const types = front.token_types ? " A vector for the kind of token is added." : "";
    const scaled = front.scaled ? ` It is multiplied by √${whole(d_model)}.` : "";
    return `Each token is looked up: its row of the table is a vector of ${whole(d_model)} numbers, and with it the residual stream begins.${scaled}${types}`;
  },
  positions: ({ positions }) => POSITIONS[positions.kind] ?? "",
  norm: ({ norm }, _, id) => {
    const what =
      norm === "RMSNorm"
        ? "Each vector is divided by the root of its mean square and multiplied by a learned gain."
        : "Each vector is centred, divided by its deviation, then scaled and shifted by what was learned.";
    const where = id.endsWith("final_norm")
      ? "It stands between the last layer and the head."
      : id.endsWith("embedding.norm")
        ? "It stands on the sum of token and position, before the first layer."
        : (WHERE[id.split(".").at(-1)!] ?? "");
    return `${what} ${where}`;
  },
  self: (tower) => {
    const sees = tower.causal ? "itself and the tokens before it" : "every token of the text";
    return `Each token looks at ${sees} and gathers what it finds. ${heads(tower)}.${INSIDE[tower.positions.kind] ?? ""}`;
  },
  cross: (tower) => `Each token written looks at all that the encoder read: queries are the decoder’s, keys and values the encoder’s. ${heads(tower)}.`,
  feed_forward: ({ d_model, d_ff, gated, activation }) =>
    `Each vector by itself goes from ${whole(d_model)} to ${whole(d_ff)} units, through ${functionName(activation)}, and back.` +
    (gated ? " The units are gated: one matrix says how far each is opened, another what it holds; the two are multiplied." : ""),
  head: ({ d_model }, model) => {
    const { head, labels, tie } = model;
    if (head === "classification") return `One vector for the whole text becomes ${labels?.length ?? 0} scores, and their softmax probabilities of the labels.`;
    if (head === "token_classification") return `Each vector becomes ${labels?.length ?? 0} scores, and their softmax probabilities of the labels of its token.`;
    if (head === "embedding") return `The vectors of all tokens become one of ${whole(d_model)} numbers, which stands for the text.`;
    const tied = tie.includes("output") ? " Its matrix is the table of the embedding." : "";
    const which = head === "masked" ? "The vector at each position, a gap’s as any other," : "The last vector";
    return `${which} is compared with ${whole(vocabularyOf(model))} tokens; the softmax of these scores is the probability of each.${tied}`;
  },
  stream: ({ placement, d_model }) =>
    `One vector of ${whole(d_model)} numbers for each token, from the embedding to the head. ` +
    (placement === "post"
      ? "Every sub-layer adds to it, and a norm rescales the sum: what was written early is scaled down again and again."
      : "Every sub-layer reads it and adds to it; nothing is ever taken away, so the end is the sum of all that was written."),
};

const LINKS: Record<Role, readonly (readonly [string, string])[]> = {
  embedding: [["tokens", "pieces, ids, vectors, nearest tokens"]],
  positions: [["positions", "the scheme drawn, and two words swapped"]],
  norm: [["norm", "this one: before, mean, variance, after"]],
  self: [
    ["attention", "who looks at whom"],
    ["qkv", "step by step, one head"],
    ["masking", "who may look where"],
    ["positions", "where a token stands"],
    ["whatif", "take a head out, and see"],
  ],
  cross: [
    ["attention", "what each written token looks at"],
    ["qkv", "step by step, one head"],
    ["whatif", "take a head out, and see"],
  ],
  feed_forward: [
    ["feedforward", "its units, and what they promote"],
    ["whatif", "leave it out, and see"],
  ],
  head: [
    ["generation", "the whole distribution, token by token"],
    ["residual", "what makes up a score"],
  ],
  stream: [
    ["residual", "what each layer would answer"],
    ["norm", "how the stream grows"],
  ],
};

export const linksOf = (role: Role): readonly (readonly [string, string])[] => LINKS[role];

/** The axes of a tensor in words, by the last part of its name; those of an answer by the head. */
export function shapeWords({ name, shape }: Pick<TensorInfo, "name" | "shape">, head: HeadKind): string {
  const last = name.split(".").at(-1)!;
  if (/^(q|q_projected|context)$/.test(last) || name.endsWith("query_norm.out")) return "text, head, position, feature of the head";
  if (/^([kv]|[kv]_new|k_projected)$/.test(last) || name.endsWith("key_norm.out")) return "text, key head, key position, feature of the head";
  if (/^(scores|weights)$/.test(last)) return "text, head, query, key";
  if (last === "mask") return "text, 1, query, key";
  if (/^(gate|pre|hidden)$/.test(last)) return "text, position, unit";
  if (/^(narrow|stride)_/.test(last)) return "sound, feature, frame";
  const isAnswer = /^(logits|projected|capped)$/.test(last) && head !== "embedding";
  const what = !isAnswer ? "feature" : head.endsWith("classification") ? "label" : "token of the vocabulary";
  return shape.length === 2 ? `text, ${what}` : `text, position, ${what}`;
}

// ---- a part that is drawn, by its id

export const idsOf = ({ boxes, waves, streams }: Drawing): string[] => [...boxes, ...waves, ...streams].map(({ id }) => id);

export const towerOf = ({ towers }: ModelInfo, id: string): Tower =>
  towers.find((one) => one.prefix && id.startsWith(one.prefix)) ?? towers[towers.length - 1];

export const roleOf = (drawn: Drawing, id: string): Role =>
  drawn.boxes.find((box) => box.id === id)?.role ?? (id.endsWith("stream") ? "stream" : "positions");

export function titleOf(model: ModelInfo, drawn: Drawing, id: string): string {
  const tower = model.towers.length > 1 && !id.startsWith("head") ? `, ${towerOf(model, id).title.toLowerCase()}` : "";
  const box = drawn.boxes.find((one) => one.id === id);
  const title = box?.title ?? (id.endsWith("stream") ? "Residual stream" : "Positions");
  return title + tower;
}

/** "sees 4 back", or null where all is seen. */
export function windowsOf(tower: Tower): string | null {
  const found = [...new Set(tower.windows)];
  if (found.every((one) => one === null)) return null;
  const told = found.map((one) => (one === null ? "all" : whole(one))).join(" / ");
  return `sees ${told}${tower.causal ? " back" : " around"}`;
}

// ---- the whole model

const KINDS = [
  ["embedding", "Embeddings", /embedding\.(?!norm)|bias\.table/],
  ["self", "Attention", /attention\./],
  ["feed_forward", "Feed-forward", /feed_forward\./],
  ["norm", "Norms", /norm|residual/],
  ["head", "Head", /^head\./],
] as const;

export interface Share {
  kind: Role;
  title: string;
  /** Parameters, and what part of all they are. */
  n: number;
  share: number;
}

/** How the parameters divide. */
export function sharesOf(model: ModelInfo): Share[] {
  const sums = new Map<string, number>();
  for (const { name, parameters: n } of model.parts) {
    const norm = /_norm$|\.norm$|_residual\./.test(name);
    const kind = norm ? "norm" : KINDS.find(([, , pattern]) => pattern.test(name))?.[0];
    if (kind && n) sums.set(kind, (sums.get(kind) ?? 0) + n);
  }
  const total = model.parameters || 1;
  return KINDS.filter(([kind]) => sums.has(kind)).map(([kind, title]) => ({ kind, title, n: sums.get(kind)!, share: sums.get(kind)! / total }));
}

export function summaryOf(model: ModelInfo): [string, string][] {
  const { towers } = model;
  const last = towers[towers.length - 1];
  const spread = (of: (tower: Tower) => number): string => [...new Set(towers.map(of))].map(whole).join(" + ");
  return [
    ["Parameters", whole(model.parameters)],
    ["Layers", towers.map((tower) => tower.layers).join(" + ")],
    ["Width", spread((tower) => tower.d_model)],
    ["Heads", spread((tower) => tower.num_heads)],
    ["Feed-forward", spread((tower) => tower.d_ff)],
    model.labels ? ["Labels", whole(model.labels.length)] : vocabularyOf(model) ? ["Vocabulary", whole(vocabularyOf(model))] : ["Norms", last.norm],
  ];
}
