"""Does training in bfloat16 follow training in float32? A character GPT of 6 × 384 over 500 steps, twice each.

Both precisions see the same weights and the same batches for each seed; the two seeds tell how far apart two runs are
that differ by chance alone. Trained by ``pellucid train`` itself; what was trained before is not trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean

from common import write_page

RECIPE = Path(__file__).parents[1] / "recipes" / "shakespeare-char-large.toml"
SEEDS, PRECISIONS, STEPS = (0, 1), ("float32", "bfloat16"), 500
SETTINGS = (
    "training.batch_tokens=4096",
    "training.evaluate_every=100",
    "training.schedule.peak=1e-3",
    "model.front.dropout=0.0",
    "model.stack.dropout=0.0",
    "model.stack.attention.dropout=0.0",
)


def curve(seed: int, precision: str, folder: Path, mirror: str | None) -> dict[int, float]:
    """The validation loss by step."""
    out = folder / f"{precision}-{seed}"
    if not (out / "README.md").exists():
        settings = [*SETTINGS, f"training.steps={STEPS}", f"training.precision={precision}"]
        command = [sys.executable, "-m", "pellucid", "train", str(RECIPE), "--seed", str(seed), "--out", str(out)]
        places = ["--mirror", mirror] if mirror else []
        subprocess.run([*command, "--force", *places, *settings], check=True, env=os.environ)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["validation"]["loss"] for line in lines if "validation" in line}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--folder", type=Path, default=Path("runs/precision"))
    parser.add_argument("--mirror", help="a folder to read the text from")
    options = parser.parse_args()
    found = {(p, s): curve(s, p, options.folder, options.mirror) for s in SEEDS for p in PRECISIONS}
    rows = []
    for step in found["float32", SEEDS[0]]:
        losses = {precision: [found[precision, seed][step] for seed in SEEDS] for precision in PRECISIONS}
        apart = [half - full for half, full in zip(losses["bfloat16"], losses["float32"], strict=True)]
        chance = [abs(a - b) for a, b in losses.values()]
        cells = [*(f"{mean(losses[p]):.4f}" for p in PRECISIONS), ", ".join(f"{d:+.4f}" for d in apart)]
        rows.append(f"| {step} | {' | '.join(cells)} | {mean(chance):.4f} |")
    head = "| step | float32 | bfloat16 | bfloat16 less float32, by seed | two seeds apart |\n" + "|---" * 5 + "|\n"
    about = (
        "Validation loss in nats per character, tiny Shakespeare; 6 layers of 384, 6 heads, 16 windows of 256 "
        "characters a step, no dropout, AdamW at 1e-3. Means of two seeds."
    )
    write_page("precision", "Training in bfloat16 against float32", f"{about}\n\n{head}" + "\n".join(rows))


if __name__ == "__main__":
    main()
