"""A picture and a sound to begin with, for a model that reads such and of which nobody has said what it is to read."""

from __future__ import annotations

import wave
from io import BytesIO

import numpy as np

SIDE, RATE, SECONDS = 224, 16_000, 2.0


def drawn() -> bytes:
    """A red disc before a sky that grows darker, as a PNG."""
    from PIL import Image

    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    pixels = np.stack([0.4 + 0.3 * x, 0.6 + 0.2 * x, 0.95 - 0.5 * y], axis=-1)
    pixels[(x - 0.62) ** 2 + (y - 0.4) ** 2 < 0.03] = (0.9, 0.2, 0.15)
    pixels[y > 0.8 - 0.1 * np.sin(6 * x)] = (0.25, 0.5, 0.2)
    written = BytesIO()
    Image.fromarray((pixels * 255).astype(np.uint8)).save(written, format="PNG")
    return written.getvalue()


def sung() -> bytes:
    """Two tones, one rising, one falling, as a WAV file."""
    time = np.arange(int(RATE * SECONDS)) / RATE
    rising = np.sin(2 * np.pi * (200 + 300 * time) * time)
    falling = np.sin(2 * np.pi * (2400 - 400 * time) * time)
    samples = (12_000 * np.hanning(len(time)) * (rising + 0.5 * falling)).astype("<i2")
    written = BytesIO()
    with wave.open(written, "wb") as opened:
        opened.setnchannels(1)
        opened.setsampwidth(2)
        opened.setframerate(RATE)
        opened.writeframes(samples.tobytes())
    return written.getvalue()
