"""Trains the faulty model of docs/guides/explorer.md and takes the guide's pictures; about three minutes on two cores.

Run after the page was built: ``python docs/guides/pictures/explorer.py``. It needs Chromium and the ``dev`` extra.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path

import pellucid as pl
from pellucid.config.defaults import default_run
from pellucid.config.run import Run, TextFiles
from pellucid.config.schema import from_dict, to_dict, with_overrides
from pellucid.models.checkpoint import Loaded
from pellucid.training.fit import Evaluated, fit
from pellucid.training.session import prepare

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
from screenshots import camera  # noqa: E402

TEXT = "qfzkwmbxtoqfzkwmbxto"
SETTINGS = (
    "tokenizer.kind=characters",
    "model.stack.d_model=64",
    "model.stack.num_layers=2",
    "model.stack.attention.num_heads=4",
    "model.stack.feed_forward.d_ff=128",
    "objective.length=64",
    "training.batch_tokens=2048",
    "training.steps=600",
)


def repeats(path: Path) -> None:
    """Eight to fourteen different letters, three times over."""
    random.seed(0)
    with path.open("w") as file:
        for _ in range(20_000):
            word = "".join(random.sample("abcdefghijklmnopqrstuvwxyz", random.randint(8, 14)))
            file.write(f"{word}{word}{word}\n")


def trained(folder: Path, *, leaks: bool) -> Loaded:
    """The model of the guide, with the fault or without."""
    text = folder / "repeats.txt"
    repeats(text)
    plain = with_overrides(to_dict(default_run("decoder", TextFiles(train=(str(text),)))), SETTINGS)
    session = prepare(from_dict(Run, plain, "run"))
    session.model.causal = not leaks  # the fault: nothing hides the future
    for event in fit(session, folder / f"leaks-{leaks}"):
        if isinstance(event, Evaluated):
            print(f"step {event.step}: loss {event.evaluation.loss:.4f}")
    loaded = Loaded(session.model.eval(), session.tokenizer, session.run)
    print(pl.complete(loaded, [TEXT[:16]], max_new_tokens=16))
    return loaded


def main() -> None:
    """Trains and takes all four pictures."""
    with tempfile.TemporaryDirectory() as folder:
        faulty = trained(Path(folder), leaks=True)
        trained(Path(folder), leaks=False)
        repaired = pl.load(Path(folder, "leaks-True"))  # the same weights in a model as pellucid builds it
    with camera(pl.explore(faulty.model, faulty.tokenizer, text=TEXT, other=repaired)) as at:
        at.look("attention", "matrix", layer=0, head=0)
        at.take(HERE / "explorer-attention.png", 1400)

        at.look("masking", "mask")
        at.take(HERE / "explorer-masking.png", 930)

        edit = {"kind": "mask", "name": "blocks.*.self_attention.mask", "causal": True}
        at.look("whatif", "answer", edits=json.dumps([edit]), query=5)
        at.take(HERE / "explorer-what-if.png", 1140)

        page = at.look("compare", "partings")
        page.get_by_test_id("first").get_by_role("button").click()
        at.settle()
        at.take(HERE / "explorer-compare.png", 980)
        page.get_by_test_id("ask").click()
        print(page.get_by_test_id("verdict").inner_text())


if __name__ == "__main__":
    main()
