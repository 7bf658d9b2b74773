import { expect, it } from "vitest";
import { overSteps, type State } from "./training";

it("goes from step to step, wherever the kept weights stand", () => {
  const state = (key: string, step: number): State => ({ stop: { key, step }, pass: null!, row: Float32Array.of(step) });
  const states = [state("step-100", 100), state("step-200", 200), state("step-300", 300), state("main", 200)];
  expect(overSteps(states).map(({ stop }) => stop.key)).toEqual(["step-100", "main", "step-300"]);
});
