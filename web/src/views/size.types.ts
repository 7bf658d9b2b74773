// The answers of /api/size, which are those of `pellucid size --json`.

import type { Family } from "../api/types";

export interface Published {
  /** null: no exact count is published. */
  parameters: number | null;
  counted: number;
  remark: string;
  source: string;
}

export interface PresetEntry {
  name: string;
  family: Family;
  about: string;
  published: Published;
}

export interface Presets {
  presets: PresetEntry[];
  unpublished: { name: string; source: string }[];
  machines: { key: string; name: string; source: string }[];
}

export interface TowerShape {
  prefix: string;
  title: string;
  layers: number;
  d_model: number;
  num_heads: number;
  num_kv_heads: number;
  head_dim: number;
  d_ff: number;
  /** Only learned positions have a longest. */
  positions: { max_length?: number };
  /** Of tokens, of patches of a picture, or of sound. */
  front: { vocab_size?: number; patch_size?: number };
}

export interface TrainingMemory {
  weights: number;
  gradients: number;
  optimizer: number;
  activations: number;
  copies: number;
  peak: number;
}

export interface Size {
  model: string;
  about: string;
  parameters: number;
  published: Published | null;
  parts: { name: string; weights: number; bias: number; copies: number; tied: boolean; parameters: number }[];
  work: { rows: number; tokens: number; source: number };
  means: { precision: string; checkpointing: boolean };
  flops: Record<"row" | "token", Record<string, number>>;
  training: TrainingMemory;
  training_checkpointed: TrainingMemory;
  inference: {
    weights: number;
    cache: number;
    cache_per_token: number;
    source_cache: number;
    activations: number;
    peak: number;
  };
  machine: { name: string; memory: number; bfloat16: number; float32: number; source: string };
  cost: { tokens: number; devices: number | null; memory: number; fits: boolean; seconds: number | null };
  writing: { devices: number; tokens_per_second: number } | null;
  shape: { family: Family; towers: TowerShape[] };
}
