// Figures as `pellucid size` prints them: three significant digits and a unit. No framework.
//
//   scaled(1.24e8, "FLOP") = "124 MFLOP"    flop(n)  bytesOf(n)  time(seconds)  whole(n) = "124,439,808"  short(n) = "124M"

const SCALES: readonly (readonly [number, string])[] = [
  [1e24, "Y"], [1e21, "Z"], [1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"],
]; // prettier-ignore

/** Three significant digits, without zeros that say nothing. */
function three(number: number): string {
  if (number !== 0 && (Math.abs(number) >= 1e6 || Math.abs(number) < 1e-4)) return number.toExponential(2);
  return String(Number(number.toPrecision(3)));
}

export function scaled(number: number, unit: string): string {
  for (const [scale, letter] of SCALES) {
    if (number >= scale) return number < 1e27 ? `${three(number / scale)} ${letter}${unit}` : `${three(number)} ${unit}`;
  }
  return `${three(number)} ${unit}`;
}

export const flop = (number: number): string => scaled(number, "FLOP");
export const bytesOf = (number: number): string => scaled(number, "B");
export const whole = (number: number): string => Math.round(number).toLocaleString("en");

/** As papers write sizes of models. */
export function short(number: number): string {
  if (number >= 1e12) return `${three(number / 1e12)}T`;
  if (number >= 1e9) return `${three(number / 1e9)}B`;
  if (number >= 1e6) return `${three(number / 1e6)}M`;
  return number >= 1e3 ? `${three(number / 1e3)}k` : String(number);
}

const SPANS: readonly (readonly [number, string])[] = [
  [365.25 * 86_400, "years"], [86_400, "days"], [3600, "hours"], [60, "minutes"],
]; // prettier-ignore

export function time(seconds: number): string {
  for (const [length, name] of SPANS) {
    if (seconds >= 2 * length) return `${spelled(seconds / length)} ${name}`;
  }
  return `${spelled(seconds)} seconds`;
}

const spelled = (number: number): string =>
  number.toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
