// Something long that a button starts and that can be cut off, at the latest when its view is left. Called while a component
// is set up:
//
//   const search = new Task();
//   search.run(async (signal) => { … })    cuts off what is under way
//   search.since                           when it began, in milliseconds; 0 while nothing is under way
//   search.error                           why it failed; cutting off is no failure
//   search.cancel()

export class Task {
  since = $state(0);
  error = $state.raw<Error | null>(null);
  private controller: AbortController | null = null;

  constructor() {
    $effect(() => () => this.cancel());
  }

  async run(work: (signal: AbortSignal) => Promise<void>): Promise<void> {
    this.cancel();
    const mine = new AbortController();
    [this.controller, this.since, this.error] = [mine, Date.now(), null];
    try {
      await work(mine.signal);
    } catch (failure) {
      if (!mine.signal.aborted) this.error = failure as Error;
    } finally {
      if (this.controller === mine) [this.controller, this.since] = [null, 0];
    }
  }

  cancel(): void {
    this.controller?.abort();
  }
}
