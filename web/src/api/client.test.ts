import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { ApiError, forget, getJson, postJson } from "./client";

let asked: { path: string; signal: AbortSignal | undefined; answer: (body: unknown, status?: number) => void }[] = [];

beforeEach(() => {
  asked = [];
  vi.stubGlobal("window", {});
  vi.stubGlobal("fetch", (path: string, { signal }: RequestInit) =>
    new Promise((resolve, reject) => {
      signal?.addEventListener("abort", () => reject(new DOMException("gone", "AbortError")));
      const answer = (body: unknown, status = 200) => resolve(new Response(JSON.stringify(body), { status }));
      asked.push({ path, signal: signal ?? undefined, answer });
    }),
  );
});

afterEach(() => {
  forget();
  vi.unstubAllGlobals();
});

it("keeps what never changes, and only that", async () => {
  const first = getJson("/api/passes/1/heads");
  asked[0].answer([1]);
  expect(await first).toEqual([1]);
  expect(await getJson("/api/passes/1/heads")).toEqual([1]);
  expect(asked).toHaveLength(1);
  for (let i = 0; i < 2; i++) {
    const session = getJson("/api/session");
    asked[asked.length - 1].answer({});
    await session;
  }
  expect(asked).toHaveLength(3);
});

it("asks once for several, and gives up when all of them have", async () => {
  const [one, two] = [new AbortController(), new AbortController()];
  const first = getJson("/api/passes/1/heads", one.signal);
  const second = getJson("/api/passes/1/heads", two.signal);
  expect(asked).toHaveLength(1);
  one.abort();
  await expect(first).rejects.toThrow("no longer wanted");
  expect(asked[0].signal!.aborted).toBe(false);
  two.abort();
  await expect(second).rejects.toThrow("no longer wanted");
  expect(asked[0].signal!.aborted).toBe(true);
  const third = getJson("/api/passes/1/heads");
  asked[1].answer("again");
  expect(await third).toBe("again");
});

it("tells a refusal in a sentence", async () => {
  const refused = postJson<Error>("/api/passes", {});
  asked[0].answer({ error: { where: "text", found: "2,000 tokens", expected: "at most 1,024", hint: "shorten it" } }, 422);
  const error: Error = await refused.catch((failure: Error) => failure);
  expect(error).toBeInstanceOf(ApiError);
  expect(error.message).toBe("text: 2,000 tokens; expected at most 1,024. Shorten it");
});

it("waits and asks again where the server's line is full", async () => {
  vi.useFakeTimers();
  const answered = getJson("/api/session");
  asked[0].answer({ error: { where: "server", found: "64 requests are waiting", expected: "", hint: "" } }, 503);
  await vi.advanceTimersByTimeAsync(10_000);
  asked[1].answer({ version: "1" });
  expect(await answered).toEqual({ version: "1" });
  vi.useRealTimers();
});

it("reads the answers of an exported page, and asks nobody", async () => {
  const body = { model: "main", text: "a", edits: [] };
  window.__pellucid__ = {
    answers: {
      "GET /api/session": { json: { version: "1" } },
      'POST /api/passes {"edits":[],"model":"main","text":"a"}': { json: { id: "7" } },
    },
  };
  expect(await getJson("/api/session")).toEqual({ version: "1" });
  expect(await postJson("/api/passes", body)).toEqual({ id: "7" });
  await expect(getJson("/api/passes/7/heads")).rejects.toThrow("exported without this answer");
  expect(asked).toHaveLength(0);
});
