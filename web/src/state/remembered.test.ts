import { afterEach, expect, it, vi } from "vitest";
import { remember, remembered } from "./remembered";

afterEach(() => vi.unstubAllGlobals());

it("goes on where a browser grants no storage", () => {
  const denied = () => {
    throw new DOMException("denied", "SecurityError");
  };
  vi.stubGlobal("localStorage", { getItem: denied, setItem: denied });
  remember("theme", "dark");
  expect(remembered("theme")).toBeNull();
});

it("remembers", () => {
  const kept = new Map<string, string>();
  vi.stubGlobal("localStorage", { getItem: (key: string) => kept.get(key) ?? null, setItem: (key: string, text: string) => void kept.set(key, text) });
  remember("theme", "dark");
  expect(remembered("theme")).toBe("dark");
});
