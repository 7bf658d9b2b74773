// A model as the paper's figure: where every box, line and label stands. No framework, and nothing is drawn here.
//
//   drawing(model, {stacked}) -> Drawing     boxes, sums, lines, frames, labels in one coordinate system
//   towerDrawing(model, tower)               one tower by itself
//   count(n)                                 "124.4 M"
//
// Tokens enter at the bottom. The residual stream is one line from the embedding to the head; whatever reads it stands on
// its left and writes back to it at a sum. With norms behind the sum (post) they stand on the line itself, for then the
// stream passes through them.
//
// A box is known by its module's path, "blocks.*" standing for every layer: "decoder.blocks.*.cross_attention".

import type { ModelInfo, Tower } from "../api/types";

export type Role = "embedding" | "positions" | "norm" | "self" | "cross" | "feed_forward" | "head" | "stream";

export interface Box {
  id: string;
  role: Role;
  tower: string;
  x: number;
  y: number;
  width: number;
  height: number;
  title: string;
  /** One line below the title. */
  detail: string;
  /** Round ends: a norm. */
  pill?: boolean;
}

export interface Line {
  path: string;
  kind: "stream" | "branch" | "source" | "tie";
  arrow?: boolean;
}

export interface Frame {
  tower: string;
  x: number;
  y: number;
  width: number;
  height: number;
  layers: number;
  title: string;
}

export interface Label {
  x: number;
  y: number;
  text: string;
  anchor?: "start" | "middle" | "end";
  kind?: "state" | "title" | "note";
}

export interface Drawing {
  width: number;
  height: number;
  boxes: Box[];
  lines: Line[];
  sums: { x: number; y: number }[];
  /** Circles with a wave: positions that are added. */
  waves: { id: string; tower: string; x: number; y: number; title: string }[];
  frames: Frame[];
  labels: Label[];
  /** Where the reader's tokens stand, and the answers. */
  tokens: { tower: string; x: number; y: number; width: number }[];
  answers: { x: number; y: number; width: number } | null;
  /** The stream of each tower, to be clicked: a wide invisible band. */
  streams: { id: string; tower: string; x: number; top: number; bottom: number }[];
}

const WIDE = 340; // of a tower
const COLUMN = { x: 30, width: 190 };
const STREAM = 270;
const GUTTER = 76;
const HEIGHT = { attention: 96, feed_forward: 92, pill: 22, wide: 58 };
const GAP = 15;
const PILL = 104;
const TOKENS = 34;

export function count(n: number): string {
  for (const [size, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]] as const) {
    if (n >= size) return `${n / size >= 100 ? (n / size).toFixed(0) : (n / size).toPrecision(3).replace(/\.0+$/, "")} ${unit}`;
  }
  return String(n);
}

export const whole = (n: number): string => n.toLocaleString("en-US");

// ---------------------------------------------------------------------------------------------------- one tower

interface Built extends Drawing {
  /** Where the encoder's states leave, and where the decoder's cross-attention takes them in. */
  out: { x: number; y: number };
  takes: { x: number; y: number } | null;
}

/** From the bottom up, y growing downward and the bottom at 0: all is above it. */
function built(model: ModelInfo, tower: Tower, withHead: boolean): Built {
  const p = tower.prefix;
  const drawn: Built = {
    width: WIDE, height: 0, boxes: [], lines: [], sums: [], waves: [], frames: [], labels: [], tokens: [], answers: null,
    streams: [], out: { x: STREAM, y: 0 }, takes: null,
  }; // prettier-ignore
  let y = 0;
  const box = (id: string, role: Role, x: number, bottom: number, width: number, height: number, title: string, detail: string, pill = false) =>
    drawn.boxes.push({ id, role, tower: p, x, y: bottom - height, width, height, title, detail, pill });
  const onStream = (id: string, title: string) => {
    box(id, "norm", STREAM - PILL / 2, y, PILL, HEIGHT.pill, title, "", true);
    y -= HEIGHT.pill + GAP;
  };
  const norm = tower.norm === "RMSNorm" ? "RMS norm" : "Layer norm";

  drawn.tokens.push({ tower: p, x: 12, y: -TOKENS + 4, width: WIDE - 24 });
  y -= TOKENS;
  y -= 12;
  const embeddingBottom = y;
  const front = frontOf(tower);
  box(`${p}embedding`, "embedding", 12, y, WIDE - 24, HEIGHT.wide, front.title, front.detail);
  drawn.lines.push({ path: `M${STREAM - 100} ${embeddingBottom + 12}V${embeddingBottom + 1}`, kind: "branch", arrow: true });
  y -= HEIGHT.wide;
  const streamBottom = y;
  y -= 26;
  const added = addedPositions(tower);
  if (added) {
    drawn.sums.push({ x: STREAM, y });
    drawn.waves.push({ id: `${p}embedding.positions`, tower: p, x: STREAM - 62, y, title: added });
    drawn.lines.push({ path: `M${STREAM - 46} ${y}H${STREAM - 10}`, kind: "branch", arrow: true });
    drawn.labels.push({ x: STREAM - 86, y: y + 4, text: added, anchor: "end", kind: "note" });
    y -= 26;
  }
  if (tower.front.norm) onStream(`${p}embedding.norm`, norm);

  // ---- the block
  const frameBottom = y;
  y -= 12;
  drawn.labels.push({ x: STREAM + 13, y: y - 2, text: "pre", kind: "state" });
  const sublayers = ["self_attention", ...(tower.cross ? ["cross_attention"] : []), "feed_forward"];
  const states: Record<string, string> = { self_attention: "mid", cross_attention: "cross", feed_forward: "post" };
  for (const name of sublayers) {
    const isAttention = name !== "feed_forward";
    const path = `${p}blocks.*.${name}`;
    const middle = COLUMN.x + COLUMN.width / 2;
    y -= 16;
    const readAt = y;
    let low = y; // the lower end of the arrow into the sub-layer
    if (tower.placement !== "post") {
      box(`${path}_residual.before`, "norm", middle - PILL / 2, y + HEIGHT.pill / 2, PILL, HEIGHT.pill, norm, "", true);
      drawn.lines.push({ path: `M${STREAM} ${y}H${middle + PILL / 2 + 2}`, kind: "branch", arrow: true });
      low = y - HEIGHT.pill / 2;
      y = low - GAP;
      drawn.lines.push({ path: `M${middle} ${low}V${y + 2}`, kind: "branch", arrow: true });
    } else {
      y -= GAP;
      drawn.lines.push({ path: `M${STREAM} ${readAt}H${middle + 6}q-6 0 -6 -6V${y + 2}`, kind: "branch", arrow: true });
    }
    const height = isAttention ? HEIGHT.attention : HEIGHT.feed_forward;
    const role: Role = name === "self_attention" ? "self" : name === "cross_attention" ? "cross" : "feed_forward";
    box(path, role, COLUMN.x, y, COLUMN.width, height, TITLES[role]!, isAttention ? headsOf(tower) : widthsOf(tower));
    if (role === "cross") drawn.takes = { x: COLUMN.x, y: y - height / 2 };
    let sumAt = y - height / 2;
    y -= height;
    if (tower.placement === "both") {
      const pillBottom = y - GAP;
      drawn.lines.push({ path: `M${middle} ${y}V${pillBottom + 2}`, kind: "branch", arrow: true });
      box(`${path}_residual.output`, "norm", middle - PILL / 2, pillBottom, PILL, HEIGHT.pill, norm, "", true);
      sumAt = pillBottom - HEIGHT.pill / 2;
      drawn.lines.push({ path: `M${middle + PILL / 2} ${sumAt}H${STREAM - 10}`, kind: "branch", arrow: true });
      y = pillBottom - HEIGHT.pill;
    } else {
      drawn.lines.push({ path: `M${COLUMN.x + COLUMN.width} ${sumAt}H${STREAM - 10}`, kind: "branch", arrow: true });
    }
    drawn.sums.push({ x: STREAM, y: sumAt });
    if (tower.placement === "post") {
      const pillBottom = sumAt - 10 - 12;
      box(`${path}_residual.after`, "norm", STREAM - PILL / 2 + 4, pillBottom, PILL - 8, HEIGHT.pill, norm, "", true);
      y = Math.min(y, pillBottom - HEIGHT.pill);
    }
    y -= 12;
    drawn.labels.push({ x: STREAM + 13, y: y + 6, text: states[name], kind: "state" });
  }
  y -= 22;
  drawn.frames.push({ tower: p, x: 12, y, width: WIDE - 24, height: frameBottom - y, layers: tower.layers, title: tower.title });
  y -= 20;
  if (tower.final_norm) {
    onStream(`${p}final_norm`, norm);
    y += GAP - 8;
  }
  drawn.out = { x: STREAM, y };
  let streamTop = y;
  if (withHead) {
    y -= 8;
    streamTop = y + 2;
    const head = headOf(model);
    box("head", "head", 12, y, WIDE - 24, HEIGHT.wide, head.title, head.detail);
    y -= HEIGHT.wide;
    drawn.lines.push({ path: `M${STREAM - 100} ${y}V${y - 11}`, kind: "branch", arrow: true });
    y -= 12;
    drawn.answers = { x: 12, y: y - TOKENS + 6, width: WIDE - 24 };
    y -= TOKENS;
  }
  drawn.lines.unshift({ path: `M${STREAM} ${streamBottom}V${streamTop}`, kind: "stream", arrow: withHead });
  drawn.streams.push({ id: `${p}stream`, tower: p, x: STREAM, top: streamTop, bottom: streamBottom });
  drawn.height = -y;
  return drawn;
}

const TITLES: Partial<Record<Role, string>> = { self: "Self-attention", cross: "Cross-attention", feed_forward: "Feed-forward" };

export const functionName = (activation: string): string =>
  ({ relu: "ReLU", gelu: "GELU", gelu_tanh: "GELU", silu: "SiLU" })[activation] ?? activation;

const headsOf = (tower: Tower): string =>
  `${tower.num_heads} head${tower.num_heads > 1 ? "s" : ""} of ${tower.head_dim}` +
  (tower.num_kv_heads < tower.num_heads ? `, ${tower.num_kv_heads} for k, v` : "");

const widthsOf = (tower: Tower): string => `${whole(tower.d_model)} → ${whole(tower.d_ff)} → ${whole(tower.d_model)}, ${functionName(tower.activation)}`;

export function addedPositions(tower: Tower): string | null {
  if (tower.positions.kind === "sinusoidal") return "sines of positions";
  if (tower.positions.kind === "learned") return "learned positions";
  return null;
}

/** What positions do inside attention, in a few words. */
export function positionsInside(tower: Tower): string | null {
  switch (tower.positions.kind) {
    case "rotary":
      return "q, k turned";
    case "alibi":
      return "− distance";
    case "relative_bias":
      return "+ bias";
    default:
      return null;
  }
}

function frontOf(tower: Tower): { title: string; detail: string } {
  const { front, d_model } = tower;
  switch (front.kind) {
    case "patches":
      return { title: "Patch embedding", detail: `squares of ${front.patch_size} × ${front.patch_size} pixels → ${whole(d_model)}` };
    case "audio":
      return { title: "Two convolutions", detail: `${front.mels} mel bands → ${whole(d_model)}, every second frame` };
    default:
      return { title: "Token embedding", detail: `${whole(Number(front.vocab_size))} tokens × ${whole(d_model)}${front.scaled ? ", times √" + whole(d_model) : ""}` };
  }
}

/** As many as the table has rows; a tokenizer may have fewer. */
export const vocabularyOf = (model: ModelInfo): number =>
  Number(model.towers[model.towers.length - 1].front.vocab_size ?? model.vocabulary ?? 0);

function headOf(model: ModelInfo): { title: string; detail: string } {
  const width = whole(model.towers[model.towers.length - 1].d_model);
  switch (model.head) {
    case "masked":
      return { title: "Masked-language head", detail: `${width} → ${whole(vocabularyOf(model))} scores, one a token` };
    case "classification":
      return { title: "Classification head", detail: `one state → ${whole(model.labels?.length ?? 0)} labels` };
    case "token_classification":
      return { title: "Token classification head", detail: `${width} → ${whole(model.labels?.length ?? 0)} labels a token` };
    case "embedding":
      return { title: "Embedding head", detail: `all states → one vector of ${width}` };
    default:
      return { title: "Language head, softmax", detail: `${width} → ${whole(vocabularyOf(model))} scores, one a token` };
  }
}

// ---------------------------------------------------------------------------------------------------- both towers

/** One tower by itself; the last has the head on it. */
export function towerDrawing(model: ModelInfo, tower: Tower): Drawing {
  const only = built(model, tower, tower === model.towers[model.towers.length - 1]);
  return { ...moved(only, 2, only.height + 4), width: WIDE + 4, height: only.height + 12 };
}

/** `stacked`: the decoder above the encoder, for a narrow screen. */
export function drawing(model: ModelInfo, { stacked = false } = {}): Drawing {
  const towers = model.towers.map((tower, i) => built(model, tower, i === model.towers.length - 1));
  const tied = ["source", "target"].filter((name) => model.tie.includes(name));
  if (towers.length === 1) {
    const [only] = towers;
    const whole = moved(only, 14, only.height + 6);
    whole.width = WIDE + 28;
    whole.height = only.height + 18;
    if (model.tie.includes("output")) tie(whole, find(whole, "embedding"), find(whole, "head"), 7);
    return whole;
  }
  const [encoder, decoder] = towers;
  const right = stacked ? 0 : WIDE + GUTTER;
  const margin = stacked ? 44 : 14;
  const bottom = stacked ? encoder.height + decoder.height + 30 : Math.max(encoder.height, decoder.height) + 6;
  const left = moved(encoder, margin, bottom);
  const other = moved(decoder, right + margin, stacked ? decoder.height + 6 : bottom);
  const joined: Drawing = {
    width: right + WIDE + 28 + (stacked ? 30 : 0),
    height: bottom + 12,
    boxes: [...left.boxes, ...other.boxes],
    lines: [...left.lines, ...other.lines],
    sums: [...left.sums, ...other.sums],
    waves: [...left.waves, ...other.waves],
    frames: [...left.frames, ...other.frames],
    labels: [...left.labels, ...other.labels],
    tokens: [...left.tokens, ...other.tokens],
    answers: other.answers,
    streams: [...left.streams, ...other.streams],
  };
  const [from, to] = [left.out, other.takes!];
  const gutter = stacked ? 20 : WIDE + margin + GUTTER / 2 - 4;
  // The encoder's states: up out of the encoder, over to the decoder, into every cross-attention as keys and values.
  const over = stacked ? from.y - 14 : from.y - 22;
  const turn = stacked ? `H${gutter + 8}q-8 0 -8 -8` : `H${gutter - 8}q8 0 8 ${over < to.y ? 8 : -8}`;
  const near = over < to.y ? -8 : 8;
  joined.lines.push({
    path: `M${from.x} ${from.y}V${over + 8}q0 -8 ${stacked ? -8 : 8} -8${turn}V${to.y + near}q0 ${-near} 8 ${-near}H${to.x - 3}`,
    kind: "source",
    arrow: true,
  });
  joined.labels.push(
    stacked
      ? { x: gutter + 4, y: to.y - 8, text: "k, v", kind: "note" }
      : { x: gutter + 5, y: to.y - 8, text: "k, v", kind: "note" },
  );
  if (model.tie.includes("output") && tied.includes("target")) {
    tie(joined, find(joined, "decoder.embedding"), find(joined, "head"), right + margin + WIDE + 7, true);
  }
  if (tied.length === 2 && !stacked) {
    const [a, b] = [find(joined, "encoder.embedding"), find(joined, "decoder.embedding")];
    const level = a.y + a.height / 2;
    joined.lines.push({ path: `M${a.x + a.width} ${level}H${b.x}`, kind: "tie" });
    joined.labels.push({ x: (a.x + a.width + b.x) / 2, y: level - 6, text: "one table", anchor: "middle", kind: "note" });
  }
  return joined;
}

const find = (drawn: Drawing, id: string): Box => drawn.boxes.find((box) => box.id === id)!;

function tie(drawn: Drawing, a: Box, b: Box, x: number, right = false): void {
  const [from, to] = [a.y + a.height / 2, b.y + b.height / 2];
  const [start, end] = right ? [a.x + a.width, b.x + b.width] : [a.x, b.x];
  const bend = right ? -6 : 6;
  drawn.lines.push({ path: `M${start} ${from}H${x + bend}q${-bend} 0 ${-bend} -6V${to + 6}q0 -6 ${bend} -6H${end}`, kind: "tie" });
}

/** The same with its origin elsewhere; paths begin at an absolute place and are moved by their numbers. */
function moved(drawn: Built, dx: number, dy: number): Built {
  const shift = <T extends { x: number; y: number }>(thing: T): T => ({ ...thing, x: thing.x + dx, y: thing.y + dy });
  const path = (text: string) =>
    text.replace(/([MHV])(-?[\d.]+)(?: (-?[\d.]+))?/g, (_, command: string, a: string, b?: string) => {
      if (command === "H") return `H${Number(a) + dx}`;
      if (command === "V") return `V${Number(a) + dy}`;
      return `M${Number(a) + dx} ${Number(b) + dy}`;
    });
  return {
    ...drawn,
    boxes: drawn.boxes.map(shift),
    lines: drawn.lines.map((line) => ({ ...line, path: path(line.path) })),
    sums: drawn.sums.map(shift),
    waves: drawn.waves.map(shift),
    frames: drawn.frames.map(shift),
    labels: drawn.labels.map(shift),
    tokens: drawn.tokens.map(shift),
    answers: drawn.answers && shift(drawn.answers),
    streams: drawn.streams.map((stream) => ({ ...stream, x: stream.x + dx, top: stream.top + dy, bottom: stream.bottom + dy })),
    out: shift(drawn.out),
    takes: drawn.takes && shift(drawn.takes),
  };
}
