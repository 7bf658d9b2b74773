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
LENGTHS = """
import json, sys
from pathlib import Path
import table3
folder = Path(sys.argv[1])
(folder / "base-0.json").write_text(json.dumps({"perplexity": 5.0, "bleu": {"score": 25.0}}))
table3.subprocess.run = lambda command, **options: sys.exit(f"trains {command[command.index('--out') + 1]}")
assert table3.run("base", 0, folder, None, table3.STEPS) == {"perplexity": 5.0, "bleu": 25.0}
table3.run("base", 0, folder, None, 10)
"""
PEAK = """
from gpu import SMOKE, factors, product
a, b = factors(SMOKE, "cpu")
assert min(a.float().std(), b.float().std()) > 0.5 and not a.equal(b)
product(a, b, "cpu")
"""


def test_the_step_that_kernels_are_compared_by():
    found = subprocess.run([sys.executable, "-c", PROBE], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_a_table_takes_no_run_of_another_length(tmp_path):
    command = [sys.executable, "-c", LENGTHS, str(tmp_path)]
    found = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert found.stderr == f"trains {tmp_path / 'base-0-10'}\n"


@pytest.mark.slow
def test_the_product_that_says_what_a_gpu_can_do_is_of_random_numbers():
    found = subprocess.run([sys.executable, "-c", PEAK], cwd=FOLDER, capture_output=True, text=True, check=False)
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
