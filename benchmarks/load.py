"""How long a GPT-2 folder takes to open, and how much memory of its own: against ``transformers``, process by process.

Time from the call to the model, with the libraries imported; anonymous memory is what the process would not get back
from the file. Weights are random, in float32: 498 MB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from common import require_quiet, write_page

CANDIDATES = {"pellucid": "pl.load(folder)", "transformers": "GPT2LMHeadModel.from_pretrained(folder)"}


def anonymous() -> int:
    """Bytes of this process's own memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def measure(name: str, folder: str) -> dict[str, float]:
    """Opens the folder and asks the model once."""
    torch.set_num_threads(2)
    if name == "transformers":
        from transformers import GPT2LMHeadModel, logging

        logging.disable_progress_bar()
        opened = GPT2LMHeadModel.from_pretrained
    else:
        from pellucid.models.load import load

        def opened(place: str) -> torch.nn.Module:
            return load(place).model

    before, began = anonymous(), time.perf_counter()
    model = opened(folder)
    seconds, own = time.perf_counter() - began, anonymous() - before
    began = time.perf_counter()
    with torch.no_grad():
        model(torch.arange(64)[None])
    return {"seconds": seconds, "first": time.perf_counter() - began, "own": own, "after": anonymous() - before}


def prepared(folder: Path) -> int:
    """Saves a random GPT-2 with a tokenizer; returns the bytes of its weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from pellucid.config.run import ByteBPE
    from pellucid.data import Tokenizer

    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
    Tokenizer.train(ByteBPE(vocab_size=300), ["a text"] * 2).save(folder / "tokenizer.json")
    return (folder / "model.safetensors").stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    require_quiet()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CANDIDATES}
    with tempfile.TemporaryDirectory() as place:
        size = prepared(Path(place))
        for _ in range(options.rounds):
            for name in CANDIDATES:
                command = [sys.executable, __file__, "--measure", name, place]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
    lines = [
        "| | seconds to open | ratio | own memory, of the weights | first pass of 64 tokens, s | own memory after it |",
        "|---|---|---|---|---|---|",
    ]
    base = median(row["seconds"] for row in found["transformers"])
    for name, rows in found.items():
        middle = {key: median(row[key] for row in rows) for key in rows[0]}
        lines.append(
            f"| `{CANDIDATES[name]}` | {middle['seconds']:.3f} | {middle['seconds'] / base:.2f} | "
            f"{middle['own'] / size:.1%} | {middle['first']:.3f} | {middle['after'] / size:.1%} |"
        )
    about = f"{size / 1e6:.0f} MB of float32 weights, medians of {options.rounds} processes each, interleaved."
    write_page("load", "Opening a GPT-2 folder", about + "\n\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
