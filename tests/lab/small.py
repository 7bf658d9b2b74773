"""Experiments of seconds: the same as they are, with less of everything."""

import gzip
import math
import struct
import tempfile
import wave
from functools import cache
from importlib import import_module
from pathlib import Path

# What a file of an experiment calls in capitals, made small.
LESS = {
    "recall": {"LENGTHS": (2, 3), "STEPS": 3, "JUDGED": 4},
    "steps": {"LENGTHS": (4, 8), "WIDTH": 16, "ROUNDS": 2},
    "scale": {"SIZES": (1, 64), "QUERIES": 16, "WIDTH": 16, "STEPS": 4, "EVERY": 2, "JUDGED": 4},
    "heads": {"STEPS": 4, "EVERY": 2, "JUDGED": 4},
    "positions": {"STEPS": 3, "JUDGED": 4, "ROWS": 2},
    "warmup": {"DEPTHS": (1, 2), "STEPS": 3, "JUDGED": 4},
    "residuals": {"DEPTHS": (1, 2), "STEPS": 3, "JUDGED": 4},
    "mask": {"STEPS": 4, "EVERY": 2, "JUDGED": 4, "WRITTEN": 5, "LENGTH": 16},
    "induction": {"STEPS": 4, "EVERY": 2, "JUDGED": 4},
    "reversal": {"STEPS": 3, "JUDGED": 4, "ROWS": 4},
    "tied": {"STEPS": 4, "EVERY": 2, "ROWS": 2, "JUDGED": 2, "VOCAB": 50},
    "smoothing": {"STEPS": 3, "ROWS": 4, "JUDGED": 4, "EXAMPLES": 200, "WIDTH": 16},
    "sounds": {"COURSE": ((2, 1, 1.0, 1), (2, 2, 1.5, 1), (2, 3, 3.0, 2)), "EVERY": 2, "JUDGED": 3},
    "mnist": {"ROWS": 4, "STEPS": 4, "EVERY": 2, "AT_ONCE": 16},
    "images": {"ROWS": 4, "STEPS": 4, "EVERY": 2},
    "pictures": {"ROWS": 4, "READING": 2, "CODING": 51, "WRITING": 3, "SAMPLES": 20, "SHOWN": 1},
    "length": {"LENGTHS": (8, 16, 32), "TOKENS": 32, "WIDTH": 32, "ROUNDS": 2},
}


@cache
def recordings():
    """A folder of made-up recordings in the names of the published ones: each digit is a tone."""
    kept = tempfile.TemporaryDirectory()
    folder = Path(kept.name) / "recordings"
    folder.mkdir()
    for digit in range(10):
        for nth, speaker in enumerate(("ann", "bob")):
            pitch = 200 + 100 * digit + 30 * nth
            samples = [int(9000 * math.sin(2 * math.pi * pitch * i / 8000)) for i in range(1200)]
            for number in range(6):
                with wave.open(str(folder / f"{digit}_{speaker}_{number}.wav"), "wb") as opened:
                    opened.setnchannels(1)
                    opened.setsampwidth(2)
                    opened.setframerate(8000)
                    opened.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return kept


@cache
def images():
    """A folder of made-up images in the names and the format of the published ones."""
    kept = tempfile.TemporaryDirectory()
    for part in ("train", "t10k"):
        labels = bytes(i % 10 for i in range(40))
        pixels = bytes(6 * label + i % 28 for label in labels for i in range(28 * 28))
        for what, header, content in (
            ("images-idx3", struct.pack(">4I", 0x0803, 40, 28, 28), pixels),
            ("labels-idx1", struct.pack(">2I", 0x0801, 40), labels),
        ):
            (Path(kept.name) / f"{part}-{what}-ubyte.gz").write_bytes(gzip.compress(header + content))
    return kept


def made_up(data, mirror=None, progress=None):
    """Stands for the catalogue."""
    return Path({"fsdd": recordings, "mnist": images}[data]().name)


def small(name, monkeypatch):
    """The experiment, made small, its data made up."""
    monkeypatch.setattr("pellucid.lab.running.get", made_up)
    module = import_module(f"pellucid.lab.experiments.{name}")
    for constant, value in LESS[name].items():
        assert hasattr(module, constant), f"{name} has no {constant}"
        monkeypatch.setattr(module, constant, value)
    return module.EXPERIMENT
