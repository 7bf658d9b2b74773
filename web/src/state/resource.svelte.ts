// Something fetched that follows the selection. Called while a component is set up:
//
//   const heads = resource(() => {
//     const id = session.pass?.id;                       // read here: what the question depends on
//     return id ? (signal) => api.heads(id, signal) : null;
//   });
//   heads.value, heads.loading, heads.error
//
// The old value stays until the new one is there, so that a label never stands beside another question's numbers: put what
// labels need into the value. A question that is no longer wanted is aborted.

export interface Resource<T> {
  readonly value: T | undefined;
  readonly loading: boolean;
  readonly error: Error | null;
}

export function resource<T>(question: () => ((signal: AbortSignal) => Promise<T>) | null): Resource<T> {
  let value = $state.raw<T | undefined>(undefined);
  let loading = $state(false);
  let error = $state.raw<Error | null>(null);
  $effect(() => {
    const asked = question();
    if (!asked) {
      value = undefined;
      error = null;
      loading = false;
      return;
    }
    const controller = new AbortController();
    loading = true;
    asked(controller.signal).then(
      (answer) => {
        if (controller.signal.aborted) return;
        value = answer;
        error = null;
        loading = false;
      },
      (failure: Error) => {
        if (controller.signal.aborted || failure.name === "AbortError") return;
        error = failure;
        loading = false;
      },
    );
    return () => controller.abort();
  });
  return {
    get value() {
      return value;
    },
    get loading() {
      return loading;
    },
    get error() {
      return error;
    },
  };
}
