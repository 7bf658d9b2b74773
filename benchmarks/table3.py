"""Does the paper's Table 3 hold in the small? Rows (A), (B), (D) and (E) on Multi30k: directions, not numbers.

Each row changes one thing of ``recipes/multi30k-tiny.toml``, trained for a quarter of an hour with two seeds by
``pellucid train`` itself. What was trained before is not trained again, and what was broken off goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from common import write_page

RECIPE = Path(__file__).parents[1] / "recipes" / "multi30k-tiny.toml"
SEEDS = (0, 1)
STEPS = 2400


@dataclass(frozen=True)
class Row:
    """One change, and what the paper found: perplexity and BLEU on newstest2013."""

    change: str
    settings: tuple[str, ...]
    paper: str


def both(*settings: str) -> tuple[str, ...]:
    """The same setting for both towers."""
    return tuple(f"model.{side}.{setting}" for side in ("encoder", "decoder") for setting in settings)


ROWS: Mapping[str, Row] = {
    "base": Row("4 heads of 32, smoothing 0.1, sinusoids", (), "4.92, 25.8"),
    "one-head": Row("(A) 1 head of 128", both("attention.num_heads=1"), "worse: 5.29, 24.9"),
    "narrow-keys": Row("(B) heads of 8", both("attention.head_dim=8"), "worse: 5.16, 25.1 with d_k 16 for 64"),
    "no-smoothing": Row("(D) no label smoothing", ("objective.label_smoothing=0.0",), "4.67, 25.3: BLEU worse"),
    "learned": Row(
        "(E) learned positions", both("positions.kind=learned", "positions.max_length=256"), "the same: 4.92, 25.7"
    ),
}


def run(name: str, seed: int, folder: Path, mirror: str | None, steps: int) -> dict[str, float]:
    """Trains a row with a seed unless that is done, and scores it on the validation pairs.

    A run of another length than usual has a name that says so, or one would be taken for the other.
    """
    called = f"{name}-{seed}" if steps == STEPS else f"{name}-{seed}-{steps}"
    out, scores = folder / called, folder / f"{called}.json"
    if not scores.exists():
        command = [sys.executable, "-m", "pellucid"]
        places = ["--mirror", mirror] if mirror else []
        if (out / "checkpoints").exists():
            subprocess.run([*command, "train", "--resume", str(out)], check=True)
        else:
            settings = [f"training.steps={steps}", *ROWS[name].settings]
            given = ["--seed", str(seed), "--out", str(out), *places]
            subprocess.run([*command, "train", str(RECIPE), *given, *settings], check=True)
        last = max((int(path.name.removeprefix("step-")) for path in (out / "checkpoints").glob("step-*")), default=0)
        if last < steps:
            sys.exit(f"{out} was broken off after step {last}; the same command goes on")
        done = subprocess.run(
            [*command, "evaluate", str(out), "--beams", "5", "--json", *places], check=True, capture_output=True
        )
        scores.write_bytes(done.stdout)
    found = json.loads(scores.read_text())
    return {"perplexity": found["perplexity"], "bleu": found["bleu"]["score"]}


def table(found: Mapping[str, list[dict[str, float]]]) -> str:
    """Means over the seeds with their spread, and the difference from the first row seed by seed."""
    base = found["base"]
    head = "| change | perplexity | against base, by seed | BLEU | against base, by seed | in the paper |\n"
    lines = [head + "|---" * 6 + "|"]
    for name, results in found.items():
        cells = [ROWS[name].change]
        for metric, digits in (("perplexity", 3), ("bleu", 2)):
            values = [result[metric] for result in results]
            against = [value - own[metric] for value, own in zip(values, base, strict=True)]
            cells += [f"{mean(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"]
            cells += ["" if name == "base" else ", ".join(f"{difference:+.{digits}f}" for difference in against)]
        lines.append(f"| {' | '.join(cells)} | {ROWS[name].paper} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--folder", type=Path, default=Path("runs/table3"))
    parser.add_argument("--mirror", help="a folder to read Multi30k from")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ROWS}
    for seed in SEEDS:
        for name in ROWS:
            found[name].append(run(name, seed, options.folder, options.mirror, options.steps))
    about = (
        f"{options.steps:,} steps of `recipes/multi30k-tiny.toml`, seeds {', '.join(map(str, SEEDS))}; perplexity per "
        "token and BLEU (tokens as they stand, beam 5) of the 1,014 validation pairs, in brackets the range over the "
        "seeds. Vaswani et al. 2017, Table 3, trained for 100,000 steps on WMT 2014 English–German; its row (B) "
        "shrinks keys alone, here values shrink with them."
    )
    write_page("table3", "The paper's Table 3 in the small", f"{about}\n\n{table(found)}")


if __name__ == "__main__":
    main()
