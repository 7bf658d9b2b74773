// Numbers and tokens as text. No framework.
//
//   printed(value, digits)   for the page: 7 significant digits unless told, a real minus sign
//   brief(value)             for a cell: at most 5 characters
//   piece(text)              a token's piece with its spaces and line breaks visible
//   address(name, index)     "blocks.0.self_attention.weights[0, 2, 3, 1]"; parsed(text) is the way back
//   toNumber(value)          of JSON that may say "-inf"

import type { Num } from "../api/types";

export function toNumber(value: Num | null | undefined): number {
  if (typeof value === "number") return value;
  switch (value) {
    case "inf":
      return Infinity;
    case "-inf":
      return -Infinity;
    default:
      return NaN;
  }
}

export function printed(value: number, digits = 7): string {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const magnitude = Math.abs(value);
  let text = magnitude >= 1e7 || magnitude < 1e-4 ? value.toExponential(digits - 1) : value.toPrecision(digits);
  text = text.replace(/(\.\d*?)0+(e|$)/, "$1$2").replace(/\.(e|$)/, "$1");
  return text.replaceAll("-", "−").replace("e+", "e");
}

export function brief(value: number): string {
  if (!Number.isFinite(value)) return printed(value);
  const magnitude = Math.abs(value);
  const sign = value < 0 ? "−" : "";
  if (magnitude === 0) return "0";
  if (magnitude < 0.995) return sign + magnitude.toFixed(2).slice(1);
  if (magnitude < 9.95) return sign + magnitude.toFixed(1);
  if (magnitude < 9999.5) return sign + magnitude.toFixed(0);
  return sign + magnitude.toExponential(0).replace("e+", "e");
}

export function piece(text: string): string {
  if (text === "") return "∅";
  return text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll("\r", "␍");
}

export const address = (name: string, index: readonly number[]): string => `${name}[${index.join(", ")}]`;

export function parsed(text: string): { name: string; index: number[] } | null {
  const found = /^(.+?)\[([-\d, ]*)\]$/.exec(text.trim());
  if (!found) return null;
  return { name: found[1], index: found[2].split(",").map((part) => Number(part.trim())) };
}

export function bytes(count: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (count >= 1000 && at < units.length - 1) {
    count /= 1000;
    at++;
  }
  return `${count >= 100 || at === 0 ? count.toFixed(0) : count.toPrecision(3)} ${units[at]}`;
}
