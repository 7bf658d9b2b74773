"""How fast does pellucid write, translate and embed, and how fast do others with the same weights? Side by side.

Each engine is a process of its own (``decode_worker.py``). First all answer every case once, and what they answer is
compared; then they take turns, case by case, while the others wait. What it needs, in an environment of its own:

    python -m venv peers
    peers/bin/pip install -c constraints.txt -e ".[bench,onnx]" "ctranslate2>=4.8" "sentence-transformers>=5"

and then ``peers/bin/python benchmarks/decode.py``. What is missing is reported as such.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import RESULTS, prepare, write_page
from decode_models import MODEL, SIZES, TASKS, TINY, Case, Task, cases_in, make, trained
from decode_page import section, with_old_sections
from decode_rounds import WORKER, Plan, Record, Worker, compare, opened, rounds
from decode_worker import MACHINE
from train import LEAST_ROUNDS, say


def score(folder: Path, reference: Path, records: Mapping[str, Record]) -> None:
    """BLEU of the translations of all of the source."""
    from sacrebleu.metrics import BLEU

    from pellucid.models.load import load

    target = load(folder / MODEL).tokenizer.target
    expected = reference.read_text().splitlines()
    for record in records.values():
        if record.translations:
            texts = [target.decode(row) for row in record.translations]
            record.bleu = BLEU().corpus_score(texts, [expected]).score


def measure(task: Task, plan: Plan) -> tuple[str, dict[str, Any]]:
    """Runs a task; returns its section of the page and the raw figures."""
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folder = Path(place)
        say(f"---- {task}: the models")
        whole: list[Case] = []
        if task == "translation" and plan.run and plan.source:
            whole = trained(plan.run, plan.source, folder, plan.sentences)
        else:
            make(task, folder, (TINY if plan.tiny else SIZES)[task])
        preparing = subprocess.run([sys.executable, str(WORKER), task, "prepare", str(folder)], capture_output=True)
        cases = [case for case in cases_in(folder) if plan.wants(case.name, plan.cases)]
        records: dict[str, Record] = {}
        machine = stack.enter_context(Worker(task, MACHINE, folder, None))
        machine.answer()
        workers = opened(task, folder, plan, stack, records)
        if preparing.returncode:
            say(preparing.stderr.decode()[-1000:])
        compare(workers, cases, whole, records)
        if whole and plan.reference:
            score(folder, plan.reference, records)
        peaks = rounds(workers, machine, cases, plan, records)
        for name, worker in workers.items():
            records[name].memory = worker.finish()
        return section(task, folder, cases, records, peaks, plan)


def keep_figures(task: Task, figures: Mapping[str, Any]) -> None:
    """Puts the raw figures of a task among those of the others."""
    path = RESULTS / "decode.json"
    everything = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**everything, task: figures}, indent=1) + "\n")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", action="append", choices=TASKS, help="may be repeated; all by default")
    parser.add_argument("--rounds", type=int, default=LEAST_ROUNDS)
    parser.add_argument("--engine", action="append", default=[], help="part of a name; may be repeated")
    parser.add_argument("--without", action="append", default=[], help="part of a name to leave out; may be repeated")
    parser.add_argument("--case", action="append", default=[], help="part of a name; may be repeated")
    parser.add_argument("--translation", metavar="RUN", help="a trained run to translate with, not random weights")
    parser.add_argument("--source", type=Path, help="what it translates, a sentence a line")
    parser.add_argument("--reference", type=Path, help="how that was to be translated, for BLEU")
    parser.add_argument("--sentences", type=int, default=256, help="how many of them are timed")
    parser.add_argument("--tiny", action="store_true", help="tiny models, with --noisy")
    parser.add_argument("--noisy", action="store_true", help="run whatever others do, and write nothing")
    options = parser.parse_args()
    if (options.rounds < LEAST_ROUNDS or options.tiny) and not options.noisy:
        parser.error(f"fewer than {LEAST_ROUNDS} rounds and --tiny are for smoke runs, with --noisy")
    if bool(options.translation) != bool(options.source):
        parser.error("--translation and --source go together")
    return options


def main() -> None:
    options = read_options()
    plan = Plan(
        options.rounds,
        options.engine,
        options.without,
        options.case,
        options.noisy,
        options.tiny,
        options.translation,
        options.source,
        options.reference,
        options.sentences,
    )
    if not options.noisy:
        prepare()
    # A results page names files, not where they lie.
    sys.argv[1:] = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    for task in options.task or TASKS:
        text, figures = measure(task, plan)
        if options.noisy:
            print(text)
        else:  # after each, so that a run that is broken off has not been for nothing
            write_page("decode", "Writing, translating and embedding side by side", with_old_sections({task: text}))
            keep_figures(task, figures)


if __name__ == "__main__":
    main()
