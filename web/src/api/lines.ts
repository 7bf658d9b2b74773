// Answers that come line by line, as long work goes on: each line is JSON.
//
//   for await (const line of getLines<Found>(path, signal)) …
//   for await (const line of postLines<Token>(path, body, signal)) …      breaking off, or the signal, ends the work

import { ApiError, fromFile } from "./client";

export const getLines = <T>(path: string, signal?: AbortSignal): AsyncGenerator<T> =>
  lines<T>(path, { signal }, () => fromFile("GET", path));

export function postLines<T>(path: string, body: unknown, signal?: AbortSignal): AsyncGenerator<T> {
  const headers = { "Content-Type": "application/json" };
  return lines<T>(path, { method: "POST", headers, body: JSON.stringify(body), signal }, () => fromFile("POST", path, body));
}

async function* lines<T>(path: string, options: RequestInit, kept: () => ReturnType<typeof fromFile>): AsyncGenerator<T> {
  const answer = kept(); // of an exported page: all lines at once
  if (answer && "json" in answer) {
    yield* answer.json as Awaited<T>[];
    return;
  }
  const response = await fetch(path.replace(/^\//, "./"), options);
  if (!response.ok || !response.body) {
    const body = await response.json().catch(() => null);
    const refusal = body?.error ?? { where: path, found: `answered with ${response.status}`, expected: "", hint: "" };
    throw new ApiError(response.status, refusal);
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const whole = (rest + value).split("\n");
      rest = whole.pop()!;
      for (const line of whole) {
        const found: unknown = JSON.parse(line);
        const { error } = found as { error?: string };
        if (error) throw new ApiError(422, { where: "", found: error, expected: "", hint: "" });
        yield found as Awaited<T>;
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
