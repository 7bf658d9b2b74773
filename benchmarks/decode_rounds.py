"""The processes of ``decode.py``, their turns, and what is kept of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from decode_models import Case, Task
from decode_worker import CANDIDATES, Candidate
from train import OTHERS_MAY_USE, TRIES, busy, say, used_by

LEAST_SECONDS, MOST_CALLS = 1.5, 5  # of the timed calls of a turn
PAUSE = 0.4  # CTranslate2's threads look for work for a fifth of a second after their turn
WORKER = Path(__file__).with_name("decode_worker.py")


@dataclass(frozen=True)
class Plan:
    """What is run: rounds, which engines and cases, whatever others do or not, and a trained translator if any."""

    rounds: int
    engines: Sequence[str]
    without: Sequence[str]
    cases: Sequence[str]
    noisy: bool
    tiny: bool
    run: str | None
    source: Path | None
    reference: Path | None
    sentences: int

    def wants(self, name: str, parts: Sequence[str]) -> bool:
        return not parts or any(part in name for part in parts)


@dataclass(frozen=True)
class Turn:
    """Seconds of each timed call, of writing a first token alone, and the cores that others used."""

    calls: list[float]
    first: float | None
    others: float


@dataclass
class Record:
    """What was found out about one engine: by case, its turns and what came out."""

    load: float = 0.0
    memory: int = 0
    missing: str = ""
    found: dict[str, list[Any]] = field(default_factory=dict)
    turns: dict[str, list[Turn]] = field(default_factory=dict)
    bleu: float | None = None
    translations: list[list[int]] = field(default_factory=list)


class BrokenError(Exception):
    """An engine that ended early, with the last thing it said."""


class Worker:
    """An engine's process."""

    def __init__(self, task: Task, name: str, folder: Path, candidate: Candidate | None) -> None:
        self.name = name
        self._log = Path(tempfile.mkstemp(dir=folder)[1])
        threads = {"OMP_NUM_THREADS": "2", **(candidate.environment if candidate else {})}
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), task, name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("w"),
            env={**os.environ, **threads},
            text=True,
            bufsize=1,
        )

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            said = [line for line in self._log.read_text().splitlines() if line.strip()]
            raise BrokenError(said[-1] if said else "it ended without a word")
        return json.loads(line)

    def ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # why is found by asking for the answer
            self._process.stdin.write(json.dumps(question) + "\n")
        return self.answer()

    def _used_by_others(self) -> float:
        return busy() - used_by(self._process.pid) - used_by("self")

    def turn(self, case: Case) -> Turn:
        """Something short to warm the caches, then the timed calls."""
        time.sleep(PAUSE)
        before, began = self._used_by_others(), time.monotonic()
        first = None
        if case.beams == 1 and case.new:
            self.ask(case=case.name, new=1)
            first = self.ask(case=case.name, new=1)["seconds"]
        else:
            self.ask(case=case.name, rows=case.batch)
        calls: list[float] = []
        while not calls or (sum(calls) < LEAST_SECONDS and len(calls) < MOST_CALLS):
            calls.append(self.ask(case=case.name)["seconds"])
        return Turn(calls, first, (self._used_by_others() - before) / (time.monotonic() - began))

    def finish(self) -> int:
        """The most bytes it had in memory."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.answer()["memory"]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def quiet_turn(worker: Worker, case: Case, plan: Plan) -> Turn:
    """A turn during which others left the processors alone, for which it may have to be taken again."""
    for _ in range(TRIES):
        turn = worker.turn(case)
        if plan.noisy or turn.others <= OTHERS_MAY_USE:
            return turn
        say(f"{worker.name}: others used {turn.others:.2f} cores; once more")
        time.sleep(5)
    sys.exit("other processes leave no quiet moment; try again when the machine is quiet")


def opened(task: Task, folder: Path, plan: Plan, stack: ExitStack, records: dict[str, Record]) -> dict[str, Worker]:
    """The processes of all engines that are there and can be opened."""
    workers = {}
    for name, candidate in CANDIDATES[task].items():
        if not plan.wants(name, plan.engines) or any(part in name for part in plan.without):
            continue
        record = records[name] = Record()
        if not all(map(_installed, candidate.needs)):
            record.missing = "not installed"
            continue
        worker = stack.enter_context(Worker(task, name, folder, candidate))
        try:
            record.load = worker.answer()["load"]
        except BrokenError as error:
            record.missing = str(error)
            say(f"{name}: {error}")
            continue
        workers[name] = worker
    return workers


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def compare(
    workers: dict[str, Worker], cases: Sequence[Case], whole: Sequence[Case], records: dict[str, Record]
) -> None:
    """Every case once, to be compared; an engine that cannot do one takes no part in the rounds."""
    for name, worker in list(workers.items()):
        try:
            for case in cases:
                records[name].found[case.name] = worker.ask(case=case.name, show=True)["found"]
            for case in whole:
                records[name].translations = worker.ask(case=vars(case), show=True)["found"]
        except BrokenError as error:
            records[name].missing = str(error)
            del workers[name]
        say(f"{name}: {records[name].missing or 'answered'}")


def rounds(
    workers: Mapping[str, Worker], machine: Worker, cases: Sequence[Case], plan: Plan, records: dict[str, Record]
) -> dict[str, list[dict[str, float]]]:
    """Takes all turns; returns by case what the machine could do in each round."""
    peaks: dict[str, list[dict[str, float]]] = {}
    for case in cases:
        for number in range(1, plan.rounds + 1):
            peaks.setdefault(case.name, []).append(machine.ask())
            for name, worker in workers.items():
                records[name].turns.setdefault(case.name, []).append(quiet_turn(worker, case, plan))
            said = [f"{name} {median(records[name].turns[case.name][-1].calls):.2f}" for name in workers]
            say(f"{case.name}, round {number} of {plan.rounds}, seconds: {', '.join(said)}")
    return peaks
