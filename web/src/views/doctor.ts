// What the doctor says, in words, and the view in which a finding shows. No framework.
//
//   pathOf(model, identity, level)  what is asked; other weights or settings are another question
//   openingOf(finding, towers)      the view that shows the evidence, and what is to be pinned there; null for none
//   ordered(findings)               the worst first
//   told(value)                     a piece of evidence as text
//   mapOf(report)                   who moves whom, where it was measured

import type { Num, Tower } from "../api/types";
import { printed, toNumber } from "../render/numbers";

export type Status = "FAIL" | "WARN" | "INCONCLUSIVE" | "PASS" | "SKIP";
export type Level = "quick" | "standard";

export interface Finding {
  check: string;
  category: string;
  status: Status;
  done: string;
  seen: string;
  where: string;
  cause: string;
  fix: string;
  enable: string;
  references: string[];
  evidence: Record<string, unknown>;
  repro: string;
}

export interface Diagnosis {
  name: string;
  why: string;
  fix: string;
  references: string[];
  /** Names of checks. */
  explains: string[];
}

export interface Report {
  model: string;
  level: string;
  seed: number;
  healthy: boolean;
  headline: string;
  inferred: string[];
  diagnoses: Diagnosis[];
  findings: Finding[];
  /** Of every check. */
  questions: Record<string, string>;
  seconds: number;
}

export type Line = { question: string; done: number; total: number } | { report: Report };

export const pathOf = (model: string, identity: string, level: Level): string =>
  `/api/models/${encodeURIComponent(model)}/doctor?identity=${identity}&level=${level}`;

export const STATUSES: readonly Status[] = ["FAIL", "WARN", "INCONCLUSIVE", "PASS", "SKIP"];

/** What a status means, for those who have not met it. */
export const MEANING: Record<Status, string> = {
  FAIL: "surely a fault",
  WARN: "often a fault, and may be meant so",
  INCONCLUSIVE: "asked, and it could not be told",
  PASS: "as it should be",
  SKIP: "not asked, or something is missing for it",
};

export const ordered = (findings: readonly Finding[]): Finding[] =>
  [...findings].sort((a, b) => STATUSES.indexOf(a.status) - STATUSES.indexOf(b.status));

export const counted = (findings: readonly Finding[]): Record<Status, number> => {
  const counts: Record<Status, number> = { FAIL: 0, WARN: 0, INCONCLUSIVE: 0, PASS: 0, SKIP: 0 };
  for (const { status } of findings) counts[status]++;
  return counts;
};

// ---------------------------------------------------------------------------------------------------- the view that shows it

export interface Opening {
  view: string;
  tower: string;
  kind: "self" | "cross";
  layer: number;
  more: Record<string, string>;
  /** "block 1 of the decoder", or "" where no place is meant. */
  place: string;
}

interface Shows {
  view: string;
  kind?: "self" | "cross";
  /** The tower where none is named: the one that reads, or the one that writes. */
  of?: "reader" | "writer";
  more?: Record<string, string>;
}

const PADDED = { pad: "2,2,left,hidden" }; // of the view of masks

// Of a check by its name, else by its category. What no view shows is not here: losses, data, schedules, rounding.
const SHOWN: Record<string, Shows> = {
  causal: { view: "masking", of: "writer" },
  influence: { view: "masking", of: "writer" },
  "attn.mask": { view: "masking" },
  attn: { view: "qkv" },
  pad: { view: "masking", of: "reader", more: PADDED },
  prefix: { view: "attention", of: "writer" },
  pos: { view: "positions" },
  "cross.encoder_alone": { view: "attention", of: "reader" },
  "cross.memory": { view: "masking", kind: "cross", of: "writer", more: PADDED },
  cross: { view: "attention", kind: "cross", of: "writer" },
  kv: { view: "generation" },
  decode: { view: "generation" },
  cache: { view: "generation" },
  "health.attention": { view: "attention" },
  "health.ffn": { view: "feedforward" },
  health: { view: "residual" },
  params: { view: "architecture" },
  init: { view: "architecture" },
};

const SITE = /((?:encoder|decoder)\.)?blocks\.(\d+)(?:\.(self|cross)_attention)?/;

/** The first part of the model that a finding names: where it shows, else in what was seen, else in its evidence. */
export function placeOf({ where, seen, evidence }: Finding): { tower: string; layer: number; kind?: "self" | "cross" } | null {
  for (const text of [where, seen, JSON.stringify(evidence)]) {
    const found = SITE.exec(text);
    if (found) return { tower: found[1] ?? "", layer: Number(found[2]), kind: found[3] as "self" | "cross" | undefined };
  }
  return null;
}

export function openingOf(finding: Finding, towers: readonly Tower[]): Opening | null {
  const shows = SHOWN[finding.check] ?? SHOWN[finding.category];
  if (!shows || !towers.length) return null;
  const named = placeOf(finding);
  const usual = shows.of === "reader" ? towers[0] : towers[towers.length - 1];
  const tower = towers.find((one) => one.prefix === named?.tower) ?? usual;
  const layer = Math.min(named && tower.prefix === named.tower ? named.layer : 0, tower.layers - 1);
  const kind = tower.cross ? (named?.kind ?? shows.kind ?? "self") : "self";
  const isPlace = named !== null && tower.prefix === named.tower;
  const place = isPlace ? `block ${layer}${towers.length > 1 ? ` of the ${tower.title.toLowerCase()}` : ""}` : "";
  return { view: shows.view, tower: tower.prefix, kind, layer, more: shows.more ?? {}, place };
}

// ---------------------------------------------------------------------------------------------------- evidence

const LONGEST = 160; // characters of one piece of evidence

export function told(value: unknown): string {
  if (typeof value === "number" || value === "inf" || value === "-inf" || value === "nan") return printed(toNumber(value), 4);
  if (typeof value === "string") return value;
  const text = JSON.stringify(value, (_, item) => (typeof item === "number" && !Number.isInteger(item) ? Number(item.toPrecision(4)) : item)) ?? "";
  return text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text;
}

/** Pictures have a place of their own. */
export const plain = (finding: Finding): [string, unknown][] => Object.entries(finding.evidence).filter(([name]) => name !== "map");

export interface Influence {
  finding: Finding;
  /** The side of the square. */
  size: number;
  values: number[];
}

export function mapOf(report: Report): Influence | null {
  for (const finding of report.findings) {
    const { map } = finding.evidence;
    if (!Array.isArray(map) || !map.length || map.some((row) => !Array.isArray(row) || row.length !== map.length)) continue;
    return { finding, size: map.length, values: (map as Num[][]).flat().map(toNumber) };
  }
  return null;
}
