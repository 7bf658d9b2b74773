// Attention as arcs between words. Never all of them: each query's strongest keys only. No framework.
//
//   strongest(weights, most, least)   edges: for each row the largest entries, `most` a row, none below `least`
//   new Arcs(box, base, above)        box scrolls sideways and holds the strips; two canvases stand still in it
//   arcs.show(scene) arcs.lock(query, key) arcs.end()
//   arcs.exported()                   as a matrix's grid has it
//
// Within one sequence an arc above the words looks back, one below looks ahead. Between two sequences the keys stand above
// the queries and lines join them. Width and colour both tell the weight.

import type { Tensor } from "../api/tensor";
import { focus, type Focus } from "../state/focus";
import { css, currentTheme, FONT, onTheme, palette } from "./colour";
import { painter, prepared } from "./frame";
import { piece } from "./numbers";
import { escaped } from "./save";

export interface Edge {
  query: number;
  key: number;
  weight: number;
}

export function strongest(weights: Tensor, most: number, least = 0.02): Edge[] {
  const [rows, columns] = weights.shape;
  const data = weights.data;
  const edges: Edge[] = [];
  for (let query = 0; query < rows; query++) {
    const best: Edge[] = [];
    for (let key = 0; key < columns; key++) {
      const weight = data[query * columns + key];
      if (!(weight >= least) || (best.length === most && weight <= best[most - 1].weight)) continue;
      let at = best.length;
      while (at > 0 && best[at - 1].weight < weight) at--;
      best.splice(at, 0, { query, key, weight });
      if (best.length > most) best.pop();
    }
    edges.push(...best);
  }
  return edges;
}

/** The strongest entries of one row or column, so many that they hold most of its mass. */
function ofOne(weights: Tensor, query: number | null, key: number | null, most = 32): Edge[] {
  const [rows, columns] = weights.shape;
  const edges: Edge[] = [];
  if (query !== null && key !== null) return [{ query, key, weight: weights.data[query * columns + key] }];
  if (query !== null) for (let k = 0; k < columns; k++) edges.push({ query, key: k, weight: weights.data[query * columns + k] });
  else if (key !== null) for (let q = 0; q < rows; q++) edges.push({ query: q, key, weight: weights.data[q * columns + key] });
  return edges.filter(({ weight }) => weight > 0.002).sort((a, b) => b.weight - a.weight).slice(0, most);
}

export interface Scene {
  weights: Tensor;
  /** Each query's strongest keys that are drawn while nothing is chosen. */
  most: number;
  /** Middles of the tokens, in pixels from the box's left; one and the same array within one sequence. */
  queries: Float32Array;
  keys: Float32Array;
  /** Where the arcs begin: the upper and lower edge of the queries' strip, and of the keys'. */
  queryTop: number;
  queryBottom: number;
  keyBottom: number;
  across: boolean;
  labels: { queries: readonly string[]; keys: readonly string[] };
}

let count = 0;

export class Arcs {
  private scene: Scene | null = null;
  private edges: Edge[] = [];
  private locked: { query: number | null; key: number | null } = { query: null, key: null };
  private focused: Focus | null = null;
  private readonly base = painter(() => this.drawBase());
  private readonly above = painter(() => this.drawAbove());
  private readonly undo: (() => void)[] = [];
  readonly source = `arcs${++count}`;

  constructor(
    private readonly box: HTMLElement,
    private readonly picture: HTMLCanvasElement,
    private readonly marks: HTMLCanvasElement,
    /** Called when sizes may have changed: the strips have to be measured again. */
    private readonly resized: () => void,
  ) {
    const observer = new ResizeObserver(() => this.resized());
    observer.observe(box);
    const scrolled = () => this.base.dirty();
    box.addEventListener("scroll", scrolled);
    this.undo.push(
      () => observer.disconnect(),
      () => box.removeEventListener("scroll", scrolled),
      onTheme(() => this.base.dirty()),
      focus.listen((there) => {
        this.focused = there;
        this.above.dirty();
      }),
    );
  }

  show(scene: Scene | null): void {
    if (scene && (scene.weights !== this.scene?.weights || scene.most !== this.scene.most)) {
      this.edges = strongest(scene.weights, scene.most);
    }
    this.scene = scene;
    this.base.dirty();
  }

  lock(query: number | null, key: number | null): void {
    this.locked = { query, key };
    this.base.dirty();
  }

  end(): void {
    for (const undo of this.undo) undo();
    this.base.end();
    this.above.end();
  }

  private get hasLock(): boolean {
    return this.locked.query !== null || this.locked.key !== null;
  }

  private shown(): Edge[] {
    if (!this.scene) return [];
    return this.hasLock ? ofOne(this.scene.weights, this.locked.query, this.locked.key) : this.edges;
  }

  private drawBase(): void {
    const { box, scene } = this;
    const context = prepared(this.picture, box.clientWidth, box.clientHeight);
    if (!scene) return;
    this.draw(context, this.shown(), box.scrollLeft, box.clientWidth);
    this.picture.dataset.drawn = scene.weights.key;
    this.drawAbove();
  }

  private drawAbove(): void {
    const { box, scene, focused } = this;
    const context = prepared(this.marks, box.clientWidth, box.clientHeight);
    if (!scene) return;
    const [rows, columns] = scene.weights.shape;
    const within = (index: number | undefined, size: number) => (index !== undefined && index >= 0 && index < size ? index : null);
    const [query, key] = [within(focused?.query, rows), within(focused?.key, columns)];
    const isOn = query !== null || key !== null;
    this.picture.style.opacity = isOn ? "0.2" : "1"; // the rest stays as a shadow
    if (isOn) this.draw(context, ofOne(scene.weights, query, key), box.scrollLeft, box.clientWidth);
  }

  private draw(context: CanvasRenderingContext2D, edges: readonly Edge[], left: number, width: number): void {
    const scene = this.scene!;
    const theme = currentTheme();
    context.lineCap = "round";
    // Weak ones first, so that strong ones are on top.
    for (const edge of [...edges].sort((a, b) => a.weight - b.weight)) {
      const from = scene.queries[edge.query] - left;
      const to = scene.keys[edge.key] - left;
      if (Math.max(from, to) < -50 || Math.min(from, to) > width + 50) continue;
      context.strokeStyle = css("sequential", theme, 0.25 + 0.7 * Math.min(1, edge.weight));
      context.lineWidth = 0.75 + 4.5 * edge.weight;
      context.beginPath();
      for (const [name, ...points] of this.path(edge, from, to)) {
        if (name === "M") context.moveTo(points[0], points[1]);
        else context.bezierCurveTo(points[0], points[1], points[2], points[3], points[4], points[5]);
      }
      context.stroke();
    }
  }

  private path({ query, key }: Edge, from: number, to: number): ["M" | "C", ...number[]][] {
    const scene = this.scene!;
    if (scene.across) {
      const [bottom, top] = [scene.queryTop, scene.keyBottom];
      const middle = (bottom + top) / 2;
      return [["M", from, bottom], ["C", from, middle, to, middle, to, top]];
    }
    if (query === key) {
      const y = scene.queryTop;
      return [["M", from - 5, y], ["C", from - 11, y - 20, from + 11, y - 20, from + 5, y]];
    }
    const back = key < query;
    const y = back ? scene.queryTop : scene.queryBottom;
    const room = back ? scene.queryTop - 6 : this.box.clientHeight - scene.queryBottom - 6;
    const rise = Math.min(room, 14 + 0.42 * Math.abs(to - from)) * (4 / 3) * (back ? -1 : 1);
    return [["M", from, y], ["C", from, y + rise, to, y + rise, to, y]];
  }

  exported() {
    const { scene } = this;
    if (!scene) return null;
    const width = Math.max(...scene.queries, ...scene.keys) + 40;
    const height = this.box.clientHeight;
    const colour = palette(currentTheme());
    const words = (draw: (text: string, x: number, y: number) => void) => {
      const middle = (scene.queryTop + scene.queryBottom) / 2;
      scene.labels.queries.forEach((text, i) => draw(piece(text), scene.queries[i], middle));
      if (scene.across) scene.labels.keys.forEach((text, i) => draw(piece(text), scene.keys[i], scene.keyBottom / 2));
    };
    return {
      width,
      height,
      draw: (context: CanvasRenderingContext2D) => {
        this.draw(context, this.shown(), 0, width);
        context.font = `13px ${FONT}`;
        context.fillStyle = colour.text;
        context.textAlign = "center";
        context.textBaseline = "middle";
        words((text, x, y) => context.fillText(text, x, y));
      },
      svg: () => {
        const theme = currentTheme();
        const body = this.shown().map((edge) => {
          const path = this.path(edge, scene.queries[edge.query], scene.keys[edge.key]);
          const d = path.map(([name, ...points]) => name + points.map((point) => point.toFixed(1)).join(" ")).join("");
          const stroke = css("sequential", theme, 0.25 + 0.7 * Math.min(1, edge.weight));
          return `<path d="${d}" fill="none" stroke="${stroke}" stroke-width="${(0.75 + 4.5 * edge.weight).toFixed(2)}"/>`;
        });
        words((text, x, y) =>
          body.push(`<text x="${x.toFixed(1)}" y="${(y + 4).toFixed(1)}" text-anchor="middle" font-size="13" fill="${colour.text}">${escaped(text)}</text>`),
        );
        return body.join("");
      },
    };
  }
}
