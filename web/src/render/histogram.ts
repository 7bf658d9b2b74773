// How several rows of numbers are spread, over one axis that is as far to the left of 0 as to the right.

export interface Histogram {
  edges: number[];
  /** By row and bin. */
  counts: number[][];
}

export function histogram(rows: readonly ArrayLike<number>[], bins: number): Histogram {
  let most = 0;
  for (const row of rows) for (let i = 0; i < row.length; i++) if (isFinite(row[i])) most = Math.max(most, Math.abs(row[i]));
  most ||= 1;
  const edges = Array.from({ length: bins + 1 }, (_, i) => -most + (2 * most * i) / bins);
  const counts = rows.map((row) => {
    const found = new Array<number>(bins).fill(0);
    for (let i = 0; i < row.length; i++) {
      if (isFinite(row[i])) found[Math.min(bins - 1, Math.floor(((row[i] + most) / (2 * most)) * bins))]++;
    }
    return found;
  });
  return { edges, counts };
}
