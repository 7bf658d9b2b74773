// One animation loop for all pictures. A picture says that it is dirty; it is drawn once, in the next frame.
//
//   painter(draw) -> { dirty(), end() }
//   ratio()          device pixels per CSS pixel, at most 3

export interface Painter {
  dirty(): void;
  end(): void;
}

const waiting = new Set<() => void>();
let asked = false;

function frame(): void {
  asked = false;
  const now = [...waiting];
  waiting.clear();
  for (const draw of now) draw();
}

export function painter(draw: () => void): Painter {
  return {
    dirty() {
      waiting.add(draw);
      if (asked) return;
      asked = true;
      requestAnimationFrame(frame);
    },
    end() {
      waiting.delete(draw);
    },
  };
}

export const ratio = (): number => Math.min(3, window.devicePixelRatio || 1);

/** Makes the canvas that many CSS pixels large, sharp on this screen; returns its context, in CSS pixels, cleared. */
export function prepared(canvas: HTMLCanvasElement, width: number, height: number): CanvasRenderingContext2D {
  const scale = ratio();
  const [across, down] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
  if (canvas.width !== across || canvas.height !== down) {
    canvas.width = across;
    canvas.height = down;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d")!;
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}
