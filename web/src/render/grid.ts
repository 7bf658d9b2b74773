// What a pointer and a keyboard do on a matrix. A `Grid` owns two canvases in a scrolling box: the picture, redrawn when it
// changes or scrolls, and above it the marks of focus and lock, redrawn at most once a frame. It touches no component.
//
//   new Grid(box, base, above, proxy, events)   box scrolls; proxy is the focusable element with role="grid"
//   grid.show(spec) grid.lock(place) grid.zoom(step) grid.end()
//   grid.exported() -> { draw, svg, width, height }
//
// Keys: arrows, Home, End, Page Up, Page Down move; Enter explains; Space locks; Esc unlocks; [ ] head; { } layer; + − 0 zoom.

import { focus, type Axis, type Focus } from "../state/focus";
import { currentTheme, FONT, onTheme, palette } from "./colour";
import { painter, prepared } from "./frame";
import type { MatrixSpec } from "./levels";
import { columnLabel, cut, layout, paint, svgOf, type Layout } from "./matrix";

/** −1: the whole row, or the whole column. */
export interface Place {
  row: number;
  column: number;
}

export interface GridEvents {
  /** Pointer or keyboard moved; `spoken` when a screen reader should hear of it. */
  hover(place: Place | null, spoken: boolean): void;
  lock(place: Place | null): void;
  explain(place: Place): void;
  head(step: 1 | -1): void;
  layer(step: 1 | -1): void;
}

const ZOOMS = [2, 4, 8, 14, 20, 28, 40, 60];

let count = 0;

export class Grid {
  private spec: MatrixSpec | null = null;
  private place: Layout | null = null;
  private locked: Place | null = null;
  private hovered: Place | null = null;
  private zoomed = 0;
  private spacer = document.createElement("div");
  private readonly source = `grid${++count}`;
  private readonly base = painter(() => this.drawBase());
  private readonly above = painter(() => this.drawAbove());
  private readonly undo: (() => void)[] = [];

  constructor(
    private readonly box: HTMLElement,
    private readonly picture: HTMLCanvasElement,
    private readonly marks: HTMLCanvasElement,
    private readonly proxy: HTMLElement,
    private readonly events: GridEvents,
    private readonly axes: { row: Axis | null; column: Axis | null },
  ) {
    box.append(this.spacer);
    const resized = new ResizeObserver(() => this.base.dirty());
    resized.observe(box);
    const on = <K extends keyof HTMLElementEventMap>(target: HTMLElement, name: K, hear: (event: HTMLElementEventMap[K]) => void) => {
      target.addEventListener(name, hear);
      this.undo.push(() => target.removeEventListener(name, hear));
    };
    on(box, "scroll", () => this.base.dirty());
    on(box, "pointermove", (event) => this.move(this.at(event)));
    on(box, "pointerleave", () => this.move(null));
    on(box, "click", (event) => {
      this.proxy.focus({ preventScroll: true }); // so that the keyboard goes on where the pointer was
      this.click(this.at(event));
    });
    on(box, "dblclick", (event) => {
      const place = this.at(event);
      if (place && place.row >= 0 && place.column >= 0) this.events.explain(place);
    });
    on(proxy, "keydown", (event) => this.key(event));
    on(proxy, "focus", () => !this.hovered && this.spec && this.go(this.start(), true));
    on(proxy, "blur", () => this.move(null));
    this.undo.push(
      () => resized.disconnect(),
      focus.listen((there) => this.hear(there)),
      onTheme(() => this.base.dirty()),
    );
  }

  show(spec: MatrixSpec | null): void {
    const shape = (one: MatrixSpec | null) => one?.tensor.shape.join();
    if (shape(spec) !== shape(this.spec)) this.hovered = null;
    this.spec = spec;
    this.base.dirty();
  }

  lock(place: Place | null): void {
    this.locked = place;
    this.above.dirty();
  }

  zoom(step: 1 | 0 | -1): void {
    const now = this.place?.across ?? 14;
    if (step === 0) this.zoomed = 0;
    else if (step > 0) this.zoomed = ZOOMS.find((size) => size > now + 0.5) ?? ZOOMS[ZOOMS.length - 1];
    else this.zoomed = ZOOMS.findLast((size) => size < now - 0.5) ?? ZOOMS[0];
    this.base.dirty();
  }

  end(): void {
    for (const undo of this.undo) undo();
    this.base.end();
    this.above.end();
    this.spacer.remove();
    focus.set(null, this.source);
  }

  exported() {
    const { spec, place } = this;
    if (!spec || !place) return null;
    const { width, height } = place;
    return {
      width,
      height,
      draw: (context: CanvasRenderingContext2D) => paint(context, spec, place, { x: 0, y: 0, width, height }),
      svg: () => svgOf(spec, place),
    };
  }

  // -------------------------------------------------------------------------------------------------- moving

  private at(event: MouseEvent): Place | null {
    const { spec, place } = this;
    if (!spec || !place) return null;
    const box = this.box.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left - this.box.clientLeft, event.clientY - box.top - this.box.clientTop];
    const [rows, columns] = spec.tensor.shape;
    const inside = (index: number, size: number) => index >= 0 && index < size;
    const row = y < place.top ? -1 : Math.floor((y - place.top + this.box.scrollTop) / place.down);
    const column = x < place.left ? -1 : Math.floor((x - place.left + this.box.scrollLeft) / place.across);
    if (row === -1 && column === -1) return null;
    if ((row !== -1 && !inside(row, rows)) || (column !== -1 && !inside(column, columns))) return null;
    return { row, column };
  }

  private move(place: Place | null, spoken = false): void {
    const same = place?.row === this.hovered?.row && place?.column === this.hovered?.column;
    if (same && !spoken) return;
    this.hovered = place;
    this.above.dirty();
    this.events.hover(place, spoken);
    focus.set(place && this.focusOf(place), this.source);
  }

  private focusOf({ row, column }: Place): Omit<Focus, "source"> {
    const there: Omit<Focus, "source"> = {};
    if (this.axes.row && row >= 0) there[this.axes.row] = row;
    if (this.axes.column && column >= 0) there[this.axes.column] = column;
    return there;
  }

  private hear(there: Focus | null): void {
    if (there?.source === this.source || !this.spec) return;
    const row = (this.axes.row && there?.[this.axes.row]) ?? -1;
    const column = (this.axes.column && there?.[this.axes.column]) ?? -1;
    this.hovered = row < 0 && column < 0 ? null : { row, column };
    this.above.dirty();
  }

  private click(place: Place | null): void {
    const same = place && this.locked && place.row === this.locked.row && place.column === this.locked.column;
    this.events.lock(same ? null : place);
  }

  private start(): Place {
    const { row = 0, column = 0 } = this.locked ?? {};
    return { row: Math.max(0, row), column: Math.max(0, column) };
  }

  private key(event: KeyboardEvent): void {
    if (!this.spec || event.ctrlKey || event.metaKey || event.altKey) return;
    const [rows, columns] = this.spec.tensor.shape;
    const { row, column } = this.hovered && this.hovered.row >= 0 && this.hovered.column >= 0 ? this.hovered : this.start();
    const actions: Record<string, () => void> = {
      ArrowUp: () => this.go({ row: row - 1, column }),
      ArrowDown: () => this.go({ row: row + 1, column }),
      ArrowLeft: () => this.go({ row, column: column - 1 }),
      ArrowRight: () => this.go({ row, column: column + 1 }),
      Home: () => this.go({ row, column: 0 }),
      End: () => this.go({ row, column: columns - 1 }),
      PageUp: () => this.go({ row: row - Math.ceil(rows / 8), column }),
      PageDown: () => this.go({ row: row + Math.ceil(rows / 8), column }),
      Enter: () => {
        this.events.lock({ row, column });
        this.events.explain({ row, column });
      },
      " ": () => this.click({ row, column }),
      Escape: () => this.events.lock(null),
      "[": () => this.events.head(-1),
      "]": () => this.events.head(1),
      "{": () => this.events.layer(-1),
      "}": () => this.events.layer(1),
      "+": () => this.zoom(1),
      "-": () => this.zoom(-1),
      "0": () => this.zoom(0),
    };
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  private go({ row, column }: Place, spoken = true): void {
    const [rows, columns] = this.spec!.tensor.shape;
    const place = { row: clamp(row, rows), column: clamp(column, columns) };
    this.move(place, spoken);
    this.reveal(place);
  }

  private reveal({ row, column }: Place): void {
    if (!this.place) return;
    const { left, top, across, down } = this.place;
    const within = (from: number, size: number, room: number, now: number) =>
      from < now ? from : from + size > now + room ? from + size - room : now;
    this.box.scrollLeft = within(column * across, across, this.box.clientWidth - left, this.box.scrollLeft);
    this.box.scrollTop = within(row * down, down, this.box.clientHeight - top, this.box.scrollTop);
  }

  // -------------------------------------------------------------------------------------------------- drawing

  private drawBase(): void {
    const { spec, box } = this;
    if (!spec || !box.clientWidth) return;
    const most = parseFloat(getComputedStyle(box).maxHeight) || 560;
    this.place = layout(spec, box.clientWidth, most, this.zoomed);
    const { width, height } = this.place;
    this.spacer.style.cssText = `width:${Math.floor(width)}px;height:${Math.floor(height)}px`;
    // The canvases stand still in the box; what they show moves.
    const [across, down] = [Math.min(box.clientWidth, width + 1), Math.min(box.clientHeight, height + 1)];
    const seen = { x: box.scrollLeft, y: box.scrollTop, width: across, height: down };
    paint(prepared(this.picture, across, down), spec, this.place, seen);
    this.picture.dataset.drawn = spec.tensor.key;
    const { left, top, across: wide, down: high } = this.place;
    this.box.dataset.cells = [left, top, wide, high].join(); // where a test finds a cell
    this.drawAbove();
  }

  private drawAbove(): void {
    const { spec, place, box } = this;
    if (!spec || !place) return;
    const context = prepared(this.marks, this.picture.clientWidth, this.picture.clientHeight);
    const colour = palette(currentTheme());
    if (this.hovered) this.outline(context, this.hovered, colour.accent, colour.panel, 1.5, box);
    if (this.locked) this.outline(context, this.locked, colour.lock, colour.panel, 2, box);
  }

  private outline(context: CanvasRenderingContext2D, { row, column }: Place, colour: string, halo: string, line: number, box: HTMLElement) {
    const { left, top, across, down } = this.place!;
    const [rows, columns] = this.spec!.tensor.shape;
    if (row >= rows || column >= columns) return;
    const [x, y] = [left - box.scrollLeft + column * across, top - box.scrollTop + row * down];
    const [startX, startY] = [left - box.scrollLeft, top - box.scrollTop];
    context.save();
    context.beginPath();
    context.rect(left - 1, top - 1, box.clientWidth, box.clientHeight);
    context.clip();
    const frame = (fx: number, fy: number, w: number, h: number, width: number, alpha: number) => {
      context.globalAlpha = alpha;
      context.strokeStyle = halo;
      context.lineWidth = width + 2;
      context.strokeRect(fx, fy, w, h);
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.strokeRect(fx, fy, w, h);
    };
    const whole = row < 0 || column < 0;
    if (row >= 0) frame(startX, y, columns * across, down, whole ? line : 1, whole ? 1 : 0.55);
    if (column >= 0) frame(x, startY, across, rows * down, whole ? line : 1, whole ? 1 : 0.55);
    if (!whole) frame(x, y, Math.max(across, 3), Math.max(down, 3), line + 0.5, 1);
    context.restore();
    context.font = `600 12px ${FONT}`;
    if (row >= 0) this.rowMark(context, row, y + down / 2, colour);
    if (column >= 0) this.columnMark(context, column, x + across / 2, colour);
  }

  /** The label of the row at hand, also where there is no room for all of them. */
  private rowMark(context: CanvasRenderingContext2D, row: number, y: number, colour: string): void {
    const { left, top } = this.place!;
    if (y < top) return;
    context.fillStyle = palette(currentTheme()).panel;
    context.fillRect(0, y - 9, left - 2, 18);
    context.fillStyle = colour;
    context.textAlign = "right";
    context.textBaseline = "middle";
    context.fillText(cut(context, this.spec!.rows[row] ?? String(row), left - 8), left - 6, y);
  }

  private columnMark(context: CanvasRenderingContext2D, column: number, x: number, colour: string): void {
    const { left, top, upright } = this.place!;
    if (x < left) return;
    const label = this.spec!.columns[column] ?? String(column);
    const width = upright ? 18 : Math.max(18, context.measureText(label).width + 10);
    const from = Math.min(x - width / 2, this.picture.clientWidth - width);
    context.fillStyle = palette(currentTheme()).panel;
    context.fillRect(from, 0, width, top - 2);
    context.fillStyle = colour;
    columnLabel(context, label, from + width / 2, top, upright);
  }
}

const clamp = (index: number, size: number): number => Math.min(size - 1, Math.max(0, index));
