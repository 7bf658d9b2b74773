"""How fast does pellucid train, and how fast do others train the same model? Side by side, on random or real batches.

Each candidate is a process of its own (``worker.py``), asked for one step at a time. A round gives each a turn: a few
steps to warm the caches, then the timed ones, while the others wait. Where memory does not hold all at once they run in
groups, each with pellucid and the yardsticks in it; ratios and shares are taken within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, median
from typing import Any

from common import RESULTS, machine, require_quiet, spread, write_page
from shapes import SHAPES, Shape, described, flops_per_token, work_of
from worker import Candidate, candidates
from yardsticks import KERNELS, PEAK, PRODUCTS

from pellucid.config import model as config
from pellucid.errors import PellucidError

LEAST_ROUNDS = 5
PEAK_STEPS = 3
YARDSTICKS = (PEAK, PRODUCTS, KERNELS)
OTHERS_MAY_USE = 0.15  # cores, on average over a turn
TRIES = 20
SIZES_WITHIN = 0.02  # of pellucid's; GPT-2 in transformers cannot leave its biases out


# ---- running -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """How many rounds, how many timed steps if not the shape's own, and whether to go on whatever others do."""

    rounds: int
    steps: int | None
    noisy: bool


@dataclass(frozen=True)
class Turn:
    """Labels a second of the timed steps, mean loss, and the cores that others used."""

    rate: float
    loss: float
    others: float


@dataclass
class Record:
    """What was found out about one candidate."""

    parameters: int = 0
    first_step: float = 0.0
    memory: int = 0
    start: float = 0.0  # the loss before the rounds
    turns: list[Turn] = field(default_factory=list)
    against: list[tuple[float, float]] = field(default_factory=list)  # in the same rounds, pellucid's rate and the peak

    @property
    def rates(self) -> list[float]:
        return [turn.rate for turn in self.turns]

    @property
    def learns(self) -> bool:
        return self.turns[-1].loss < self.start


class Worker:
    """A candidate's process."""

    def __init__(self, name: str, work: Path, folder: Path) -> None:
        self.name, self.first_step = name, 0.0
        own = Path(tempfile.mkdtemp(dir=folder))  # the cache too: compiling is never a matter of reading a file
        self._log = own / "log"
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("worker.py")), name, str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("w"),
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(own)},
            text=True,
            bufsize=1,
        )
        self.parameters: int = self._answer()["parameters"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended early:\n{self._log.read_text()[-2000:]}")
        return json.loads(line)

    def step(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        return self._answer()

    def _used_by_others(self) -> float:
        return busy() - used_by(self._process.pid) - used_by("self")

    def turn(self, shape: Shape) -> Turn:
        """A few steps untimed, then the timed ones."""
        warm, timed = (1, PEAK_STEPS) if self.name == PEAK else (shape.warm, shape.timed)
        before, began = self._used_by_others(), time.monotonic()
        steps = [self.step() for _ in range(warm + timed)]
        others = (self._used_by_others() - before) / (time.monotonic() - began)
        self.first_step = self.first_step or steps[0]["seconds"]
        rate = sum(step["amount"] for step in steps[warm:]) / sum(step["seconds"] for step in steps[warm:])
        return Turn(rate, mean(step["loss"] for step in steps), others)

    def finish(self) -> int:
        """The most bytes it had in memory."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._answer()["memory"]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def groups(names: Sequence[str], together: int) -> Iterator[list[str]]:
    """All names, so many at a time, the first of them in every group."""
    first, *rest = names
    for i in range(0, len(rest), together - 1):
        yield [first, *rest[i : i + together - 1]]


def run_group(names: list[str], shape: Shape, work: Path, plan: Plan, records: dict[str, Record]) -> None:
    """Adds to the records what the rounds of a group say."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        workers = {}
        for name in (*(name for name in records if name in YARDSTICKS), *names):
            worker = workers[name] = stack.enter_context(Worker(name, work, Path(folder)))
            record, start = records[name], worker.turn(shape).loss
            record.parameters, record.first_step, record.start = worker.parameters, worker.first_step, start
            say(f"{name}: {worker.parameters:,} parameters, first step {worker.first_step:.1f} s, loss {start:.3f}")
        for number in range(1, plan.rounds + 1):
            turns = {name: quiet_turn(worker, shape, plan) for name, worker in workers.items()}
            for name, turn in turns.items():
                records[name].turns.append(turn)
                records[name].against.append((turns[names[0]].rate, turns[PEAK].rate))
            rates = ", ".join(f"{name} {turn.rate:,.0f}" for name, turn in turns.items() if name != PEAK)
            say(f"round {number} of {plan.rounds}: {rates}")
        for name, worker in workers.items():
            records[name].memory = max(records[name].memory, worker.finish())


def quiet_turn(worker: Worker, shape: Shape, plan: Plan) -> Turn:
    """A turn during which others left the processors alone, for which it may have to be taken again."""
    for _ in range(TRIES):
        turn = worker.turn(shape)
        if plan.noisy or turn.others <= OTHERS_MAY_USE:
            return turn
        say(f"{worker.name}: others used {turn.others:.2f} cores; once more")
        time.sleep(5)
    sys.exit("other processes leave no quiet moment; try again when the machine is quiet")


def busy() -> float:
    """Seconds that the processors have worked, for anybody, since they were started."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, soft, steal = map(int, stat.read_text().splitlines()[0].split()[1:9])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def used_by(process: int | str) -> float:
    """Seconds of processor time of a process and its threads."""
    stat = Path(f"/proc/{process}/stat")
    if not stat.exists():
        return 0.0
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- the page ----------------------------------------------------------------------------------


def measure(name: str, plan: Plan, mirror: str | None) -> str:
    """Runs a shape and writes its section of the page."""
    shape = SHAPES[name] if plan.steps is None else replace(SHAPES[name], timed=plan.steps)
    say(f"---- {name}: the batches")
    work = work_of(shape, mirror)
    everyone = candidates(work.model)
    found = [name for name, candidate in everyone.items() if find_spec(candidate.needs)]
    records = {name: Record() for name in (*YARDSTICKS, *found)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "work.pickle"
        path.write_bytes(pickle.dumps(work))
        for group in groups(found, shape.together):
            run_group(group, shape, path, plan, records)
    flops = flops_per_token(work.model, shape.length) if isinstance(work.model, config.Decoder) else 0
    lines = [speed(name, records.get(name), flops) for name in (*everyone, PRODUCTS, KERNELS)]
    arithmetic = " | GFLOP/s | of the peak" if flops else ""
    head = f"| candidate | tokens/s | pellucid ÷ candidate{arithmetic} | peak memory, GB |\n"
    table = head + "|---" * (head.count("|") - 1) + "|\n" + "\n".join(lines)
    about = "| candidate | settings | parameters | first step, s | loss |\n|---|---|---|---|---|\n"
    about += "\n".join(setting(name, everyone[name], records[name]) for name in found)
    run = f"{date.today().isoformat()}, {machine()}; `train.py --shape {name} --rounds {plan.rounds}`"
    notes = notes_on(shape, records, plan)
    return "\n\n".join([f"## {name}", f"{run}. {described(work)}", table, about, notes])


def speed(name: str, record: Record | None, flops: int) -> str:
    if record is None:
        return f"| {name} | not installed |" + " |" * (4 if flops else 2)
    ratio = median(ours / rate for rate, (ours, _) in zip(record.rates, record.against, strict=True))
    cells = [name, spread(record.rates), f"{ratio:.2f}"]
    if flops:
        share = median(flops * rate / peak for rate, (_, peak) in zip(record.rates, record.against, strict=True))
        cells += [f"{flops * median(record.rates) / 1e9:.0f}", f"{share:.0%}"]
    return f"| {' | '.join(cells)} | {record.memory / 1e9:.2f} |"


def setting(name: str, candidate: Candidate, record: Record) -> str:
    losses = f"{record.start:.3f} → {record.turns[-1].loss:.3f}"
    return f"| {name} | {candidate} | {record.parameters:,} | {record.first_step:.1f} | {losses} |"


def notes_on(shape: Shape, records: Mapping[str, Record], plan: Plan) -> str:
    """How it was measured, and what is wrong with it."""
    peak = spread([rate / 1e9 for rate in records[PEAK].rates])
    used = max(turn.others for record in records.values() for turn in record.turns)
    together = f", {shape.together} candidates at a time" if shape.together < len(records) - 2 else ""
    notes = [
        f"Medians (ranges) of {plan.rounds} interleaved rounds{together}, in each of which a candidate does "
        f"{shape.warm} steps untimed and {shape.timed} timed; ratios and shares are medians of each round's own. The "
        f"peak is a bfloat16 product of 2048 × 2048 matrices: {peak} GFLOP/s. In no turn did others use more than "
        f"{used:.2f} cores. The first step includes compiling; the loss is that before the rounds and in the last."
    ]
    learners = {name: record for name, record in records.items() if name not in YARDSTICKS}
    ours = next(iter(learners.values())).parameters
    for name, record in learners.items():
        if abs(record.parameters / ours - 1) > SIZES_WITHIN:
            notes.append(f"**{name} is of another size.**")
        if not record.learns:
            notes.append(f"**The loss of {name} did not fall.**")
    return "\n\n".join(notes)


def with_old_sections(new: Mapping[str, str]) -> str:
    """The whole page: new sections, and from the page as it is those of shapes that were not run."""
    page = RESULTS / "train.md"
    old = page.read_text().split("\n## ")[1:] if page.exists() else []
    sections = {section.split("\n", 1)[0].strip(): f"## {section.strip()}" for section in old} | dict(new)
    return "\n\n".join(sections[name] for name in SHAPES if name in sections)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", action="append", choices=SHAPES, help="may be repeated; all by default")
    parser.add_argument("--rounds", type=int, default=LEAST_ROUNDS)
    parser.add_argument("--steps", type=int, help="timed steps of a turn, with --noisy; by default the shape's own")
    parser.add_argument("--mirror", help="a folder to read Multi30k from; by default it is fetched")
    parser.add_argument("--noisy", action="store_true", help="run whatever others do, and write no page")
    options = parser.parse_args()
    if options.rounds < LEAST_ROUNDS and not options.noisy:
        parser.error(f"{options.rounds} rounds tell little; at least {LEAST_ROUNDS}, or --noisy")
    if options.steps is not None and not options.noisy:
        parser.error("--steps is for smoke runs, with --noisy")
    if not options.noisy:
        require_quiet()
    for name in options.shape or SHAPES:
        try:
            section = measure(name, Plan(options.rounds, options.steps, options.noisy), options.mirror)
        except PellucidError as error:  # data that cannot be had
            parser.error(str(error))
        if options.noisy:
            print(section)
        else:  # after each, so that a run that is broken off has not been for nothing
            write_page("train", "Training side by side", with_old_sections({name: section}))


if __name__ == "__main__":
    main()
