// How lines of one picture are told apart: by colour, and by dashes once the colours are used up.

const COLOURS = ["var(--query)", "var(--key)", "var(--value)", "var(--lock)", "var(--muted)", "var(--text)"];
const DASHES = [undefined, "7 3", "2 3", "9 3 2 3"];
export const line = (i: number) => ({ colour: COLOURS[i % COLOURS.length], dash: DASHES[Math.floor(i / COLOURS.length) % 4] });
