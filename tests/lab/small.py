"""Experiments of seconds: the same as they are, with less of everything."""

from importlib import import_module

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
    "images": {"ROWS": 4, "STEPS": 4, "EVERY": 2},
    "pictures": {"ROWS": 4, "READING": 2, "CODING": 51, "WRITING": 3, "SAMPLES": 20, "SHOWN": 1},
    "length": {"LENGTHS": (8, 16, 32), "TOKENS": 32, "WIDTH": 32, "ROUNDS": 2},
}


def small(name, monkeypatch):
    """The experiment, made small."""
    module = import_module(f"pellucid.lab.experiments.{name}")
    for constant, value in LESS[name].items():
        assert hasattr(module, constant), f"{name} has no {constant}"
        monkeypatch.setattr(module, constant, value)
    return module.EXPERIMENT
