// Axes of curves: where ticks stand. No framework.
//
//   nice(0.37)               0.5: the next of 1, 2, 5 times a power of ten
//   multiples(low, high, step)

export function nice(rough: number): number {
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * ([1, 2, 5, 10].find((one) => one * power >= rough) ?? 10);
}

/** The multiples of a step from low to high, both included up to rounding. */
export function multiples(low: number, high: number, step: number): number[] {
  const first = Math.ceil(low / step);
  const last = Math.floor((high + 1e-9 * step) / step);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => (first + i) * step);
}
