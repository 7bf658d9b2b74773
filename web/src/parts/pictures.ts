// What Export offers of a picture on canvas.
//
//   pictureChoices(() => grid?.exported(), () => ({ lines: caption(…), name }))

import { savePng, saveSvg, type Caption } from "../render/save";
import { theme } from "../state/theme.svelte";

/** A picture that can be drawn once more, larger, and written as SVG. */
export interface Exported {
  draw: (context: CanvasRenderingContext2D) => void;
  svg: () => string;
  width: number;
  height: number;
}

/** Nothing is saved while there is no picture. */
export function pictureChoices(drawn: () => Exported | null | undefined, told: () => { lines: Caption; name: string }) {
  return [
    {
      text: "PNG picture",
      save: () => {
        const [made, { lines, name }] = [drawn(), told()];
        if (made) savePng(made.draw, made.width, made.height, lines, name, theme.current);
      },
    },
    {
      text: "SVG picture",
      save: () => {
        const [made, { lines, name }] = [drawn(), told()];
        if (made) saveSvg(made.svg(), made.width, made.height, lines, name, theme.current);
      },
    },
  ];
}
