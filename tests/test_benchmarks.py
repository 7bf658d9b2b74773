"""The scripts of benchmarks/ follow the code: what they measure can be run."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
PROBE = """
import torch
from kernels import step
from pellucid.nn.kernels import blocked, explicit, sdpa
for kernel in (explicit, blocked, sdpa):
    step(kernel, 16, torch.float32)()
"""


def test_the_step_that_kernels_are_compared_by():
    found = subprocess.run([sys.executable, "-c", PROBE], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        "decode",
        "doctor",
        "dropout",
        "explorer",
        "gpu",
        "load",
        "memory",
        "precision",
        "serve",
        "table3",
        "taps",
        "tracing",
        "train",
    ],
)
def test_scripts_say_what_they_measure(script):
    """Everything a script imports is there, under the name that it has today."""
    command = [sys.executable, "-c", f"import {script}; assert {script}.__doc__"]
    found = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
