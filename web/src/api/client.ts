// Talking to the server. Everything that a view fetches goes through `api`.
//
//   api.session() api.model(key) api.pass(request) api.tensor(slice) api.statistics(…) api.explain(…) api.atlas(…)
//   api.heads(…) api.answers(…)
//   passOf(id)                         a pass that this page has run, or null
//   getJson<T>(path, signal?)          for the routes of one view; answers below a pass are kept
//   getTensor(path, encoding, signal?) the same for an octet-stream
//   postJson<T>(path, body, signal?)
//   api.show(file)                     gives the server a picture or a sound; the name under which it is read
//   pictureEncoding(rows, columns, "sqrt8" | "sym8")   "f32" while that is cheap
//   query({a: 1, b: undefined})        "?a=1"
//   ApiError                           where, found, expected, hint of a refusal
//
// Everything under /api/passes/ID and /api/writing/ID never changes, so it is kept here (least recently used first out).
// Callers that ask for the same thing share one request; it is aborted when all of them have given up.
//
// A page exported as one file has no server: see recorded.ts.

import { bytesOf, isExported, recorded, recordedTensor, type Recorded } from "./recorded";
import { decode, type Encoding, type Tensor } from "./tensor";
import type {
  Answers,
  Explanation,
  HeadSummary,
  ModelInfo,
  Pass,
  PassRequest,
  Refusal,
  SessionInfo,
  Statistics,
} from "./types";

export type { Encoding, Tensor } from "./tensor";

/** One entry an axis: a place, all, or from–to. */
export type At = readonly (number | ":" | readonly [number, number])[];

/** A part of one tensor of one pass. */
export interface Slice {
  pass: string;
  name: string;
  at: At;
  /** Another pass, whose tensor of the same name is taken away. */
  minus?: string;
}

/** How a matrix is fetched to be drawn: exact while it is small, else in eight bits (f32 when a number is asked for). */
export const pictureEncoding = (rows: number, columns: number, small: "sqrt8" | "sym8"): Encoding =>
  rows * columns <= 128 * 128 ? "f32" : small;

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly refusal: Refusal,
  ) {
    const { where, found, expected, hint } = refusal;
    const sentence = [where, found].filter(Boolean).join(": ") + (expected ? `; expected ${expected}` : "");
    super(hint ? `${sentence}. ${hint[0].toUpperCase()}${hint.slice(1)}` : sentence);
    this.name = "ApiError";
  }
}

type Setting = string | number | boolean | readonly string[] | undefined | null;

/** A list is a setting given several times. */
export function query(settings: Record<string, Setting>): string {
  const text = Object.entries(settings)
    .flatMap(([name, value]) => (Array.isArray(value) ? value : [value]).map((one) => [name, one] as const))
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([name, value]) => `${name}=${encodeURIComponent(String(value))}`)
    .join("&");
  // A colon and a comma mean the same escaped or not; plain, an address can be read in the network panel.
  return text && "?" + text.replaceAll("%3A", ":").replaceAll("%2C", ",");
}

export function written(at: At): string {
  return at.map((entry) => (Array.isArray(entry) ? `${entry[0]}:${entry[1]}` : String(entry))).join(",");
}

// ---------------------------------------------------------------------------------------------------- requests

export { canonical, isExported } from "./recorded";

/** What an exported page answers; null where there is a server to ask. */
export function fromFile(method: string, path: string, body?: unknown): Recorded | null {
  if (!isExported()) return null;
  const answer = recorded(method, path, body);
  if (answer) return answer;
  throw new ApiError(404, {
    where: "this page",
    found: "it was exported without this answer",
    expected: "",
    hint: "run pellucid explore to ask a model for it",
  });
}

const TRIES = 6;

async function ask(path: string, options: RequestInit): Promise<Response> {
  let response: Response;
  for (let tries = 1; ; tries++) {
    try {
      // Relative, so that the page also works below a path.
      response = await fetch(path.replace(/^\//, "./"), options);
    } catch (error) {
      if ((error as Error).name === "AbortError") throw error;
      throw new ApiError(0, { where: "the server", found: "it does not answer", expected: "", hint: "is it still running?" });
    }
    // Its line is full: others are served first. Not all that wait come back at the same moment.
    if (response.status !== 503 || tries === TRIES) break;
    await pause(1000 * (Number(response.headers.get("Retry-After")) || 1) * tries * (0.5 + Math.random()), options.signal);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const refusal = body?.error ?? { where: path, found: `answered with ${response.status}`, expected: "", hint: "" };
  throw new ApiError(response.status, refusal);
}

function pause(milliseconds: number, signal?: AbortSignal | null): Promise<void> {
  return new Promise((resolve, reject) => {
    const clock = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(clock);
      reject(new DOMException("no longer wanted", "AbortError"));
    });
  });
}

export async function postJson<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  const answer = fromFile("POST", path, body);
  if (answer && "json" in answer) return answer.json as T;
  const headers = { "Content-Type": "application/json" };
  const response = await ask(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  return (await response.json()) as T;
}

export function getJson<T>(path: string, signal?: AbortSignal): Promise<T> {
  return kept(path, signal, async (own) => {
    const answer = fromFile("GET", path);
    if (answer && "json" in answer) return { value: answer.json, bytes: JSON.stringify(answer.json).length };
    const text = await (await ask(path, { signal: own })).text();
    return { value: JSON.parse(text), bytes: 4 * text.length };
  }) as Promise<T>;
}

export function getTensor(path: string, encoding: Encoding, signal?: AbortSignal): Promise<Tensor> {
  return kept(path, signal, async (own) => {
    const cut = isExported() ? recordedTensor(path) : null;
    if (cut) return { value: cut, bytes: cut.bytes };
    const answer = fromFile("GET", path);
    let bytes: ArrayBuffer;
    let header: (name: string) => string | null;
    if (answer && "octets" in answer) {
      bytes = bytesOf(answer.octets);
      header = (name) => answer.headers[name.toLowerCase()] ?? null;
    } else {
      const response = await ask(path, { signal: own });
      bytes = await response.arrayBuffer();
      header = (name) => response.headers.get(name);
    }
    const shape = (header("X-Shape") ?? "").split(",").filter(Boolean).map(Number);
    const tensor = decode(path, bytes, encoding, shape, Number(header("X-Low")), Number(header("X-High")));
    return { value: tensor, bytes: bytes.byteLength * (encoding === "f32" ? 1 : 5) };
  }) as Promise<Tensor>;
}

// ---------------------------------------------------------------------------------------------------- keeping

const CAPACITY = 96 * 1024 * 1024;

interface Kept {
  value: unknown;
  bytes: number;
}

interface Flight {
  promise: Promise<Kept>;
  controller: AbortController;
  waiting: number;
}

const store = new Map<string, Kept>();
const flights = new Map<string, Flight>();
let stored = 0;

async function kept(path: string, signal: AbortSignal | undefined, fetcher: (own: AbortSignal) => Promise<Kept>) {
  const found = store.get(path);
  if (found) {
    store.delete(path); // and to the end: the least recently used stand first
    store.set(path, found);
    return found.value;
  }
  let flight = flights.get(path);
  if (!flight) {
    const controller = new AbortController();
    const leave = () => {
      if (flights.get(path)?.controller === controller) flights.delete(path);
    };
    const promise = fetcher(controller.signal).then(
      (answer) => {
        leave();
        if (path.startsWith("/api/passes/")) keep(path, answer);
        return answer;
      },
      (failure) => {
        leave();
        throw failure;
      },
    );
    flight = { promise, controller, waiting: 0 };
    flights.set(path, flight);
  }
  return (await awaited(path, flight, signal)).value;
}

function awaited(path: string, flight: Flight, signal?: AbortSignal): Promise<Kept> {
  flight.waiting++;
  if (!signal) return flight.promise;
  return new Promise((resolve, reject) => {
    const giveUp = () => {
      flight.waiting--;
      if (flight.waiting === 0) {
        if (flights.get(path) === flight) flights.delete(path);
        flight.controller.abort();
      }
      reject(new DOMException("no longer wanted", "AbortError"));
    };
    if (signal.aborted) return giveUp();
    signal.addEventListener("abort", giveUp, { once: true });
    flight.promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", giveUp));
  });
}

function keep(path: string, answer: Kept): void {
  store.set(path, answer);
  stored += answer.bytes;
  for (const [oldest, { bytes }] of store) {
    if (stored <= CAPACITY || oldest === path) break;
    store.delete(oldest);
    stored -= bytes;
  }
}

/** Forgets every answer; for tests and for a model that was replaced. */
export function forget(): void {
  store.clear();
  ran.clear();
  stored = 0;
}

// ---------------------------------------------------------------------------------------------------- passes

const MOST_RAN = 500;
const ran = new Map<string, Pass>();

/** For captions: what is saved may be of another pass than the one that the page shows. */
export const passOf = (id: string): Pass | null => ran.get(id) ?? null;

function remember(pass: Pass): Pass {
  ran.delete(pass.id); // and to the end: the least recently run stand first
  ran.set(pass.id, pass);
  if (ran.size > MOST_RAN) ran.delete(ran.keys().next().value!);
  return pass;
}

// ---------------------------------------------------------------------------------------------------- the routes

const under = (pass: string): string => `/api/passes/${encodeURIComponent(pass)}`;

export const api = {
  session: (signal?: AbortSignal) => getJson<SessionInfo>("/api/session", signal),

  model: (key: string, signal?: AbortSignal) => getJson<ModelInfo>(`/api/models/${encodeURIComponent(key)}`, signal),

  pass: async (request: PassRequest, signal?: AbortSignal): Promise<Pass> =>
    remember(await postJson<Pass>("/api/passes", request, signal)),

  show: async (file: File, signal?: AbortSignal): Promise<string> => {
    const response = await ask(`/api/shown${query({ name: file.name.slice(-200) })}`, { method: "POST", body: file, signal });
    return ((await response.json()) as { name: string }).name;
  },

  tensor: ({ pass, name, at, minus }: Slice, encoding: Encoding = "f32", signal?: AbortSignal) =>
    getTensor(`${under(pass)}/tensor${query({ name, at: written(at), encoding, minus })}`, encoding, signal),

  statistics: (pass: string, name: string, signal?: AbortSignal) =>
    getJson<Statistics>(`${under(pass)}/statistics${query({ name })}`, signal),

  explain: (pass: string, name: string, index: readonly number[], signal?: AbortSignal) =>
    getJson<Explanation>(`${under(pass)}/explain${query({ name, index: index.join(",") })}`, signal),

  /** All heads of the sites, layer by layer, in small: the largest weight stands for each tile. */
  atlas: (pass: string, sites: readonly string[], signal?: AbortSignal) =>
    getTensor(`${under(pass)}/atlas${query({ sites })}`, "sqrt8", signal),

  heads: (pass: string, signal?: AbortSignal) => getJson<HeadSummary[]>(`${under(pass)}/heads`, signal),

  answers: (pass: string, position: number, top = 20, signal?: AbortSignal) =>
    getJson<Answers>(`${under(pass)}/answers${query({ position, top })}`, signal),
};
