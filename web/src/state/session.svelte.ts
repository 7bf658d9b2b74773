// The server's models, the chosen one, and the pass that the views show.
//
//   session.info, .model, .pass     null until loaded; labels and numbers of a view come from one `pass`
//   session.loading, .since         whether a pass is under way, and since when (milliseconds)
//   session.error                   the last refusal
//   session.foreign                 whether the link was made with other weights than these
//   session.start()                 once
//   session.run({text, target, edits, model})   pins what is given and makes a pass of what is pinned
//   session.cancel()
//   session.request()               what a pass of what is pinned is asked with; of the pass at hand: whatif.asked(pass)
//   session.towers, .tower          of the chosen model
//   session.place                   kind, layer, head and site of attention that are pinned, within that tower
//   session.sequence(prefix)        the tokens that a tower reads
//   session.move("head" | "layer", ±1)
//   sites(model), siteName(…), sequences(site)

import { api, ApiError } from "../api/client";
import type { ModelInfo, Pass, PassRequest, SessionInfo, Tokens, Tower } from "../api/types";
import { explain } from "./explain.svelte";
import { selection } from "./selection.svelte";

export interface Site {
  /** Prefix of the tower. */
  tower: string;
  kind: "self" | "cross";
  title: string;
  layers: number;
  heads: number;
}

/** Every kind of attention that a model has, in the order of computation. */
export function sites(model: ModelInfo): Site[] {
  return model.towers.flatMap((tower): Site[] => {
    const one = { tower: tower.prefix, layers: tower.layers, heads: tower.num_heads };
    const whose = tower.prefix ? tower.title.split(" ")[0] : "";
    const self: Site = { ...one, kind: "self", title: whose ? `${whose} self-attention` : "Self-attention" };
    return tower.cross ? [self, { ...one, kind: "cross", title: "Cross-attention" }] : [self];
  });
}

export const siteName = (tower: string, layer: number, kind: "self" | "cross"): string =>
  `${tower}blocks.${layer}.${kind}_attention`;

const NO_TOKENS: Tokens = { ids: [], pieces: [] };

type Change = Parameters<typeof selection.set>[0];

class Session {
  info = $state.raw<SessionInfo | null>(null);
  model = $state.raw<ModelInfo | null>(null);
  pass = $state.raw<Pass | null>(null);
  loading = $state(false);
  since = $state(0);
  error = $state.raw<Error | null>(null);
  foreign = $state(false);
  private controller: AbortController | null = null;

  get towers(): readonly Tower[] {
    return this.model?.towers ?? [];
  }

  /** The tower that is pinned, or the first that has such an attention. */
  get tower(): Tower | null {
    const pinned = this.towers.find((tower) => tower.prefix === selection.tower);
    const fitting = selection.kind === "cross" ? this.towers.find((tower) => tower.cross) : null;
    return pinned ?? fitting ?? this.towers[0] ?? null;
  }

  get place(): { kind: "self" | "cross"; layer: number; head: number; site: string } {
    const { prefix, layers, num_heads, cross } = this.tower!;
    const kind = cross ? selection.kind : "self";
    const layer = Math.min(selection.layer, layers - 1);
    return { kind, layer, head: Math.min(selection.head, num_heads - 1), site: siteName(prefix, layer, kind) };
  }

  sequence(prefix: string, pass: Pass | null = this.pass): Tokens {
    if (!pass) return NO_TOKENS;
    return prefix === "decoder." ? (pass.writes ?? NO_TOKENS) : pass.reads;
  }

  async start(): Promise<void> {
    selection.follow(() => void this.run());
    try {
      this.info = await api.session();
    } catch (error) {
      this.error = error as Error;
      return;
    }
    if (!this.info.models.some((model) => model.key === selection.model)) {
      selection.set({ model: this.info.models[0]?.key ?? "main" });
    }
    await this.run();
  }

  request(): PassRequest {
    const example = this.info?.example;
    const text = selection.text ?? example?.text ?? "";
    const target = selection.target ?? (selection.text === null ? example?.target : null) ?? undefined;
    const { model, edits, padding, positions } = selection;
    return {
      model,
      text,
      ...(target === undefined ? {} : { target }),
      ...(edits.length ? { edits: [...edits] } : {}),
      ...(padding ? { padding } : {}),
      ...(positions === "own" ? {} : { positions }),
    };
  }

  async run(change: Change = {}): Promise<void> {
    selection.set({ ...this.dropped(change), ...change });
    this.controller?.abort();
    const controller = new AbortController();
    this.controller = controller;
    const { signal } = controller;
    this.loading = true;
    this.since = Date.now();
    try {
      const model = this.model?.key === selection.model ? this.model : await api.model(selection.model, signal);
      const pass = await api.pass(this.request(), signal);
      if (signal.aborted) return;
      // Together, so that no view sees one model's labels beside another's numbers.
      this.model = model;
      this.pass = pass;
      this.error = null;
      this.settle();
      explain.close();
    } catch (error) {
      if (signal.aborted || (error as Error).name === "AbortError") return;
      this.error = error as Error;
      if (!(error instanceof ApiError)) throw error;
    } finally {
      if (this.controller === controller) this.loading = false;
    }
  }

  cancel(): void {
    this.controller?.abort();
    this.controller = null;
    this.loading = false;
  }

  move(what: "head" | "layer", step: 1 | -1): void {
    const tower = this.tower;
    if (!tower) return;
    const size = what === "head" ? tower.num_heads : tower.layers;
    selection.set({ [what]: (selection[what] + step + size) % size });
  }

  /** What is pinned of this text and model alone, and would be taken for what the next one wrote or answers. */
  private dropped({ model, text }: Change): Change {
    const isOther = model !== undefined && model !== selection.model;
    if (!isOther && (text === undefined || text === this.request().text)) return {};
    const { written: _, ...more } = selection.more;
    return { more, ...(isOther ? { hash: "", token: null } : {}) };
  }

  /** What is pinned may be of another model or text: it is brought within this one. */
  private settle(): void {
    const tower = this.tower!;
    this.foreign = selection.hash !== "" && selection.hash !== this.pass!.hash;
    const kind = tower.cross ? selection.kind : "self";
    const longest = Math.max(...this.towers.map((one) => this.sequence(one.prefix).ids.length));
    const within = (place: number | null) => (place !== null && place < longest ? place : null);
    selection.set({
      tower: selection.tower === null ? null : tower.prefix,
      kind,
      layer: Math.min(selection.layer, tower.layers - 1),
      head: Math.min(selection.head, tower.num_heads - 1),
      query: within(selection.query),
      key: within(selection.key),
      hash: this.pass!.hash,
    });
  }
}

export const session = new Session();
