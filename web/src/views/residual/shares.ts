// What every part added to a score, as bars, lists and maps. No framework.

import type { Shares } from "../../api/inside";
import { fromNumbers, type Tensor } from "../../api/tensor";

const KIND: Record<string, string> = { self_attention: "self-attention", cross_attention: "cross-attention", feed_forward: "feed-forward" };
const placeOf = (name: string) => {
  const found = /blocks\.(\d+)\.(\w+)$/.exec(name)!;
  return { layer: Number(found[1]), kind: found[2] };
};
const titleOf = (name: string, isPair: boolean): string => {
  const { layer, kind } = placeOf(name);
  return `Layer ${layer}, ${KIND[kind].replace("self-", isPair ? "self-" : "")}`;
};

/** Bars of which each begins where the sum so far ended, as shares of the whole width. */
export function fall(told: Shares, isPair: boolean) {
  const parts = [
    { title: "Embedding", value: told.embedding, name: "" },
    ...told.sublayers.map((one) => ({ title: titleOf(one.name, isPair), value: one.total, name: one.name })),
    { title: "Bias of norm and head", value: told.bias, name: "" },
  ];
  let sum = 0;
  const bars = parts.map((part) => {
    const from = sum;
    sum += part.value;
    return { ...part, from, to: sum };
  });
  const low = Math.min(0, ...bars.map(({ to }) => to));
  const high = Math.max(0, ...bars.map(({ to }) => to));
  const place = (value: number) => (100 * (value - low)) / (high - low || 1);
  return { bars: bars.map((bar) => ({ ...bar, left: place(Math.min(bar.from, bar.to)), wide: place(Math.max(bar.from, bar.to)) - place(Math.min(bar.from, bar.to)) })), sum, zero: place(0) };
}

export interface Strong {
  title: string;
  value: number;
  layer: number;
  kind: string;
  /** The head or the unit. */
  part: number;
}

/** The heads and units that added most, either way. */
export function strongest(told: Shares): Strong[] {
  const found = told.sublayers.flatMap((one) => {
    const { layer, kind } = placeOf(one.name);
    const heads = (one.parts ?? []).map((value, head) => ({ title: `Layer ${layer}, ${KIND[kind]}, head ${head}`, value, layer, kind, part: head }));
    const units = (one.units ?? []).map(({ unit, value }) => ({ title: `Layer ${layer}, unit ${unit}`, value, layer, kind, part: unit }));
    return [...heads, ...units];
  });
  return found.sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, 14);
}

export interface HeadMap {
  kind: string;
  title: string;
  /** By layer and head. */
  tensor: Tensor;
  rows: string[];
  columns: string[];
}

export function headMaps(told: Shares, pass: string): HeadMap[] {
  return ["self_attention", "cross_attention"].flatMap((kind) => {
    const found = told.sublayers.filter((one) => one.name.endsWith(kind) && one.parts);
    if (!found.length) return [];
    const heads = found[0].parts!.length;
    const tensor = fromNumbers(`${pass} ${kind} ${told.position} ${told.tokens.map(({ id }) => id).join()}`, [found.length, heads], found.flatMap((one) => one.parts!));
    return [{ kind, title: `Heads of ${KIND[kind]}`, tensor, rows: found.map((one) => String(placeOf(one.name).layer)), columns: Array.from({ length: heads }, (_, i) => String(i)) }];
  });
}
