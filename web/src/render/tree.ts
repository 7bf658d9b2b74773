// Where the nodes of a tree of tokens are drawn: depth goes to the right, branches below one another, the first child
// beside its parent. No framework.
//
//   arrange(parents)   for each node its column and row; parents come first, -1 is the root
//   ranked(parents)    the same, the nodes of one depth below one another in the order of the list

export interface Arranged {
  columns: Int32Array;
  rows: Int32Array;
  width: number;
  height: number;
}

export function arrange(parents: readonly number[]): Arranged {
  const columns = new Int32Array(parents.length);
  const rows = new Int32Array(parents.length);
  const children: number[][] = Array.from({ length: parents.length + 1 }, () => []);
  parents.forEach((parent, node) => children[parent + 1].push(node));
  let next = 0;
  let width = 0;
  // By hand, as a text of many tokens would be too deep for a function that calls itself.
  const open = children[0].toReversed();
  while (open.length) {
    const node = open.pop()!;
    const parent = parents[node];
    columns[node] = parent < 0 ? 0 : columns[parent] + 1;
    const isFirst = children[parent + 1][0] === node;
    rows[node] = isFirst && parent >= 0 ? rows[parent] : next++;
    width = Math.max(width, columns[node] + 1);
    open.push(...children[node + 1].toReversed());
  }
  return { columns, rows, width, height: next };
}

export function ranked(parents: readonly number[]): Arranged {
  const columns = new Int32Array(parents.length);
  const rows = new Int32Array(parents.length);
  const filled: number[] = [];
  parents.forEach((parent, node) => {
    const column = parent < 0 ? 0 : columns[parent] + 1;
    columns[node] = column;
    filled[column] ??= 0;
    rows[node] = filled[column]++;
  });
  return { columns, rows, width: filled.length, height: Math.max(0, ...filled) };
}
