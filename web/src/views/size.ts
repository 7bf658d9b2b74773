// What the view of sizes asks the server, and what the answer looks like. No framework.

import { query } from "../api/client";
import { whole } from "../render/units";
import type { Published, Size, TowerShape } from "./size.types";

export * from "./size.types";

/** Widths that models have; the one at hand is put in by the control. */
export const WIDTHS = [
  32, 48, 64, 96, 128, 192, 256, 288, 384, 512, 576, 640, 768, 896, 1024, 1280, 1536, 1600, 1792, 2048, 2304, 2560, 3072,
  3584, 4096, 5120, 6144, 7168, 8192, 10_240, 12_288, 16_384,
];
export const INNER = [
  64, 96, 128, 192, 256, 384, 512, 768, 1024, 1376, 1536, 2048, 2752, 3072, 4096, 5504, 6144, 8192, 11_008, 12_288, 13_824,
  14_336, 16_384, 20_480, 28_672, 32_768, 49_152, 53_248, 65_536,
];
export const VOCABULARIES = [
  256, 500, 1000, 2000, 4000, 8000, 16_000, 30_522, 32_000, 37_000, 50_257, 64_000, 100_000, 128_256, 151_936, 200_000,
  256_000,
];
export const LAYERS = [
  ...Array.from({ length: 24 }, (_, i) => i + 1),
  26, 28, 30, 32, 36, 40, 44, 48, 56, 64, 72, 80, 96, 112, 126, 128,
]; // prettier-ignore
export const BATCHES = Array.from({ length: 13 }, (_, i) => 2 ** i);

export function lengths(longest: number | null): number[] {
  const powers = Array.from({ length: 14 }, (_, i) => 2 ** (i + 4));
  return longest === null ? powers : [...powers.filter((length) => length < longest), longest];
}

/** Numbers of heads that share the width evenly, each of them even, as rotary positions want it. */
export function headCounts(tower: TowerShape): number[] {
  const own = tower.num_heads * tower.head_dim !== tower.d_model; // heads have a size of their own
  const counts = Array.from({ length: 128 }, (_, i) => i + 1);
  return counts.filter((count) => own || (tower.d_model % count === 0 && (tower.d_model / count) % 2 === 0));
}

export const widths = (tower: TowerShape): number[] =>
  WIDTHS.filter((width) => {
    const own = tower.num_heads * tower.head_dim !== tower.d_model;
    return own || width % (2 * tower.num_heads) === 0;
  });

export const groupCounts = (heads: number): number[] =>
  Array.from({ length: heads }, (_, i) => i + 1).filter((count) => heads % count === 0);

/** Which of a few groups a part of a model belongs to, by its name. */
export function groupOf(name: string): Group {
  if (/norm|_residual\./.test(name)) return "norms";
  if (name.includes("cross_attention")) return "cross-attention";
  if (name.includes("attention")) return "self-attention";
  if (name.includes("feed_forward")) return "feed-forward";
  if (name.startsWith("head.")) return "head";
  return "embeddings";
}

export type Group = "embeddings" | "self-attention" | "cross-attention" | "feed-forward" | "norms" | "head";
export const GROUPS: readonly Group[] = [
  "embeddings", "self-attention", "cross-attention", "feed-forward", "norms", "head",
]; // prettier-ignore

/** What each group of parts has, in the order of a pass; groups that have nothing are left out. */
export function groupsOf({ parts }: Size): [Group, number][] {
  const sums = new Map(GROUPS.map((group) => [group, 0]));
  for (const part of parts) sums.set(groupOf(part.name), sums.get(groupOf(part.name))! + part.parameters);
  return [...sums].filter(([, count]) => count > 0);
}

export function publishedWords({ parameters, counted }: Published): string {
  if (parameters === null) return "no exact count is published";
  if (parameters === counted) return `${whole(parameters)} parameters published, and counted here`;
  return `${whole(parameters)} parameters published, ${whole(counted)} counted here`;
}

/** What is asked: in the URL, with the defaults of `pellucid size`. */
export interface Asked {
  target: string;
  settings: ReadonlyMap<string, string>;
  batch?: string;
  length?: string;
  source_length?: string;
  dtype: "bfloat16" | "float32";
  machine: string;
  checkpointing: boolean;
}

export function askedOf(more: Record<string, string>): Asked {
  const pairOf = (setting: string): [string, string] => {
    const at = setting.indexOf("=");
    return [setting.slice(0, at), setting.slice(at + 1)];
  };
  return {
    target: more["size.of"] ?? "main",
    settings: new Map((more["size.set"] ?? "").split(" ").filter(Boolean).map(pairOf)),
    batch: more["size.batch"],
    length: more["size.length"],
    source_length: more["size.source"],
    dtype: more["size.dtype"] === "float32" ? "float32" : "bfloat16",
    machine: more["size.machine"] ?? "h100",
    checkpointing: more["size.checkpointing"] === "1",
  };
}

export function pathOf({ settings, ...asked }: Asked): string {
  const changed = [...settings].map(([key, value]) => `&settings=${encodeURIComponent(`${key}=${value}`)}`);
  return `/api/size${query({ ...asked, checkpointing: asked.checkpointing || undefined })}${changed.join("")}`;
}

/** The same on the command line. */
export function commandOf({ target, settings, batch, length, source_length, dtype, machine, checkpointing }: Asked): string {
  const words = ["pellucid size", target === "main" ? "RUN" : target, ...[...settings].map(([key, value]) => `${key}=${value}`)];
  if (batch) words.push(`--batch ${batch}`);
  if (length) words.push(`--length ${length}`);
  if (source_length) words.push(`--source-length ${source_length}`);
  if (dtype !== "bfloat16") words.push("--dtype float32");
  if (machine !== "h100") words.push(`--machine ${machine}`);
  if (checkpointing) words.push("--checkpointing");
  return words.join(" ");
}
