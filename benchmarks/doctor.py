"""What does an examination cost? Seconds by level, and memory beside that of a forward pass.

Each case is a process of its own. Memory is the most that was resident above what was before the model was made: of a
process that makes the model and runs the doctor's own probe once, three rows of 24 tokens, and of one that examines it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from common import prepare, write_page

import pellucid as pl
from pellucid.config import model as config
from pellucid.config import parts
from pellucid.models.build import build

CASES = {
    "tiny": ("quick", "standard", "full"),
    "tiny-hf": ("quick", "standard", "full"),
    "gpt2": ("quick", "standard"),
    "gpt2-hf": ("quick", "standard"),
}
BARS = {("tiny", "quick"): 5.0, ("tiny-hf", "quick"): 5.0, ("gpt2", "quick"): 60.0, ("gpt2-hf", "quick"): 60.0}
MEMORY = 2.5
NAMES = {
    "tiny": "ours, 2 layers of 32",
    "tiny-hf": "transformers' GPT-2, 2 layers of 32",
    "gpt2": "ours, GPT-2 of 124M",
    "gpt2-hf": "transformers' GPT-2 of 124M",
}


def made(name: str) -> Any:
    """A model with random weights."""
    torch.manual_seed(0)
    if name.endswith("-hf"):
        import transformers

        small = (
            {"n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 99, "n_positions": 64} if name == "tiny-hf" else {}
        )
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**small))
    if name == "gpt2":
        return build(pl.preset("gpt2").model)
    stack = parts.Stack(
        d_model=32, num_layers=2, attention=parts.Attention(num_heads=4), feed_forward=parts.FeedForward(d_ff=128),
        positions=parts.Learned(max_length=64), placement="pre",
    )  # fmt: skip
    return build(config.Decoder(front=config.Tokens(vocab_size=99), stack=stack))


def resident(which: str) -> int:
    """Kilobytes of this process, now (``VmRSS``) or at the most (``VmHWM``)."""
    found = re.search(rf"{which}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def child(name: str, what: str) -> None:
    """Prints seconds and the kilobytes that were needed at the most."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    pl.doctor(made("tiny"), level="quick")  # imports and kernels are loaded before anything is counted
    if name.endswith("-hf"):
        made("tiny-hf")
    before = resident("VmRSS")
    model = made(name).eval()
    Path("/proc/self/clear_refs").write_text("5")  # what was needed to draw the weights is not counted
    began = time.perf_counter()
    if what == "forward":
        ids = torch.randint(50, 90, (3, 24))
        with torch.no_grad():
            model(ids)
    else:
        report = pl.doctor(model, level=what)  # type: ignore[arg-type]
        assert report.healthy, str(report)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "kilobytes": resident("VmHWM") - before}))


def measured(name: str, what: str, rounds: int) -> tuple[float, float]:
    """The fastest of some runs, and the most memory of them, in MB."""
    found = []
    for _ in range(rounds):
        done = subprocess.run(
            [sys.executable, __file__, "--child", name, what], capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(done.stderr)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return min(each["seconds"] for each in found), max(each["kilobytes"] for each in found) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--noisy", action="store_true", help="on a busy machine; writes nothing")
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    if not arguments.noisy:
        prepare()
    lines, kept = [], True
    for name in arguments.cases:
        _, forward = measured(name, "forward", 1)
        for level in CASES[name]:
            seconds, memory = measured(name, level, arguments.rounds)
            bar = BARS.get((name, level))
            large = name.startswith("gpt2")
            ratio = f"{memory / forward:.2f}" if large else ""
            kept &= (bar is None or seconds <= bar) and (not large or level != "quick" or memory <= MEMORY * forward)
            told = f"{NAMES[name]} | {level} | {seconds:.1f} | {'' if bar is None else f'{bar:.0f}'}"
            lines.append(f"| {told} | {forward:,.0f} | {memory:,.0f} | {ratio} |")
            print(lines[-1], flush=True)
    text = f"""
Bars: `quick` on a tiny model 5 s, on GPT-2 of 124M 60 s, in {MEMORY} times the memory of a forward pass. {
        "All are kept." if kept else "NOT all are kept."
    }

| model | level | seconds | bar | a forward pass, MB | examination, MB | times |
|---|---|---|---|---|---|---|
""" + "\n".join(lines)
    if not arguments.noisy:
        write_page("doctor", "What the doctor costs", text)
    if not kept:
        sys.exit("a bar is not kept")


if __name__ == "__main__":
    main()
