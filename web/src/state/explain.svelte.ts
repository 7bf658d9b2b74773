// Which number the Explain panel is about. Every printed number leads here.
//
//   explain.open({pass, name, index})   from anywhere; the same once more moves the keyboard into the panel
//   explain.back(), explain.close()
//   explain.current                     the place, or null

export interface NumberPlace {
  pass: string;
  name: string;
  index: readonly number[];
}

class ExplainState {
  /** Counts how often what is explained was asked for again: then the reader wants to be in the panel. */
  entered = $state(0);
  trail = $state.raw<readonly NumberPlace[]>([]);

  get current(): NumberPlace | null {
    return this.trail[this.trail.length - 1] ?? null;
  }

  /** `deeper`: from inside the panel, so that there is a way back. */
  open(place: NumberPlace, deeper = false): void {
    const now = this.current;
    if (now && now.pass === place.pass && now.name === place.name && now.index.join() === place.index.join()) this.entered++;
    else this.trail = deeper ? [...this.trail, place] : [place];
  }

  back(): void {
    this.trail = this.trail.slice(0, -1);
  }

  close(): void {
    this.trail = [];
  }
}

export const explain = new ExplainState();
