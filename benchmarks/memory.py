"""Does `pellucid size` foretell the memory that training and reading take? Estimates beside measured peaks.

Each case is a process of its own. Allocated is what torch has handed out at the most in the third step: on a GPU by its
own count, on a CPU by the profiler's. Resident is what the system gave to the process for it, once the first kernels
had been loaded; and as the commands work, which keep freed memory, with those kernels counted. Work of others does not
disturb it. ``--smoke`` goes through everything in small sizes and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from common import write_page
from shapes import gpt
from torch.profiler import ProfilerActivity, profile

from pellucid.analysis.memory import Dtype, inference_memory, training_memory
from pellucid.analysis.tower import Means
from pellucid.analysis.work import Work, work_on
from pellucid.config import model as config
from pellucid.config import preset
from pellucid.config.model import stacks
from pellucid.config.run import Causal, Masked, Objective, SequenceToSequence, Training
from pellucid.config.schema import from_dict
from pellucid.data.batch import IGNORE, Batch
from pellucid.inference.decode import Prompt, prefill
from pellucid.models.build import build
from pellucid.nn.memory import keep_freed_memory
from pellucid.training.loop import train

STEPS = 3  # the moments are there from the second on
WITHIN = 0.1
ENDLESS = {"steps": 1_000_000, "schedule": {"kind": "constant", "peak": 2e-4}}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is done: training steps, or reading a batch of prompts into a cache."""

    model: config.Model
    rows: int
    length: int
    source: int | None = None
    precision: Dtype = "bfloat16"
    checkpointing: bool = False
    trains: bool = True

    @property
    def work(self) -> Work:
        return work_on(self.model, batch=self.rows, length=self.length, source_length=self.source)

    def estimate(self, device: str) -> int:
        """The most at once, in bytes."""
        if not self.trains:
            return inference_memory(self.model, self.work, self.precision).peak
        kernels = "cuda" if device == "cuda" else "cpu"
        means = Means(precision=self.precision, device=kernels, checkpointing=self.checkpointing)
        return training_memory(self.model, self.work, means).peak

    def __str__(self) -> str:
        source = f", source {self.source}" if self.source else ""
        how = "reading" if not self.trains else "training, checkpointed" if self.checkpointing else "training"
        return f"{how}, {self.precision}, {self.rows} × {self.length}{source}"


_GPT, _BERT = gpt(12, 768, 12, 50_304, 1024), preset("bert-base").model
_PAPER, _T5 = preset("transformer-base").model, preset("t5-small").model
_LLAMA = preset("smollm-135m").model

CASES: Mapping[str, Case] = {
    "GPT 6 × 384": Case(model=gpt(6, 384, 6, 65, 256), rows=16, length=256),
    "GPT 12 × 768": Case(model=_GPT, rows=4, length=512),
    "GPT 12 × 768, float32": Case(model=_GPT, rows=4, length=512, precision="float32"),
    "GPT 12 × 768, checkpointed": Case(model=_GPT, rows=8, length=1024, checkpointing=True),
    "GPT 12 × 768, reading": Case(model=_GPT, rows=8, length=1024, trains=False),
    "BERT base": Case(model=_BERT, rows=16, length=128),
    "SmolLM 135M": Case(model=_LLAMA, rows=4, length=512),
    "SmolLM 135M, reading": Case(model=_LLAMA, rows=8, length=1024, trains=False, precision="float32"),
    "Transformer base": Case(model=_PAPER, rows=32, length=64, source=64),
    "T5 small": Case(model=_T5, rows=8, length=128, source=256),
    "T5 small, reading": Case(model=_T5, rows=8, length=128, source=256, trains=False),
}


def smaller(case: Case) -> Case:
    """The same with two narrow layers and little text."""
    sides = [side for side in ("stack", "encoder", "decoder") if hasattr(case.model, side)]
    towers = {side: replace(stack, num_layers=2) for side, stack in zip(sides, stacks(case.model), strict=True)}
    return replace(case, model=replace(case.model, **towers), rows=2, length=32, source=case.source and 32)


# ---- one case, in its own process --------------------------------------------------------------


@dataclass
class Found:
    """Bytes at the most."""

    allocated: int = 0
    resident: int = 0


def measure(case: Case, device: str, keep: bool) -> Found:
    if keep:
        keep_freed_memory()
    else:
        warm(case, device)
    before = forget_peak()
    step, state = (training if case.trains else reading)(case, device)
    for _ in range(STEPS - 1):
        step()
    found = Found()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        found.allocated = torch.cuda.max_memory_allocated()
    else:
        found.resident = status("VmHWM") - before
        found.allocated = state + allocated(step)
    return found


def warm(case: Case, device: str) -> None:
    """Loads what the first step of any size loads."""
    step, _ = (training if case.trains else reading)(smaller(case), device)
    step()


def training(case: Case, device: str) -> tuple[Callable[[], object], int]:
    """A step, and the bytes that are there between steps."""
    settings = {**ENDLESS, "precision": case.precision, "recompute": case.checkpointing}
    model, options = build(case.model).to(device), from_dict(Training, settings)
    steps = train(model, Again(batch_of(case).to(device)), objective_of(case.model), options)
    return lambda: next(steps), 12 * sum(p.numel() for p in model.parameters())


def reading(case: Case, device: str) -> tuple[Callable[[], object], int]:
    model = build(case.model).to(device, getattr(torch, case.precision)).eval()
    batch = batch_of(case).to(device)

    @torch.inference_mode()
    def step() -> object:
        return prefill(model, Prompt(batch.tokens, source=batch.source), 1)

    return step, sum(p.nbytes for p in model.parameters())


class Again:
    """The same batch for ever."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __getitem__(self, index: int) -> Batch:
        return self.batch


def batch_of(case: Case) -> Batch:
    torch.manual_seed(0)
    work, front = case.work, getattr(case.model, "target", None) or case.model.front
    tokens = torch.randint(front.vocab_size, (work.rows, work.tokens))
    labels = tokens.masked_fill(torch.arange(work.tokens) >= work.labels, IGNORE)
    source = torch.randint(front.vocab_size, (work.rows, work.source)) if work.source else None
    return Batch(tokens, labels, source=source)


def objective_of(model: config.Model) -> Objective:
    match model:
        case config.Decoder():
            return Causal()
        case config.EncoderDecoder():
            return SequenceToSequence()
        case _:
            return Masked()


def allocated(step: Callable[[], object]) -> int:
    """The most that a step has allocated and not yet let go, as the profiler was told."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    del kept
    return most


def status(field: str) -> int:
    """A line of /proc/self/status in bytes; 0 on other systems."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(field)), 0)


def forget_peak() -> int:
    """Lets the peak of resident memory begin at what is resident now, which is returned."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")
    return status("VmRSS")


# ---- all of them -------------------------------------------------------------------------------


def in_process(name: str, device: str, *, smoke: bool, keep: bool) -> Found:
    flags = ["--smoke"] * smoke + ["--keep-memory"] * keep
    command = [sys.executable, str(Path(__file__)), "--only", name, "--device", device, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} ended early:\n{done.stderr[-2000:]}")
    return Found(**json.loads(done.stdout.splitlines()[-1]))


def row(name: str, device: str, smoke: bool) -> tuple[str, float]:
    """A line of the table, and how far the estimate is from what was allocated."""
    case = smaller(CASES[name]) if smoke else CASES[name]
    found = in_process(name, device, smoke=smoke, keep=False)
    estimate = case.estimate(device)
    ratio = estimate / found.allocated
    cells = [name, str(case), gigabytes(estimate), gigabytes(found.allocated), f"{ratio:.3f}"]
    if device == "cpu":
        kept = in_process(name, device, smoke=smoke, keep=True)
        cells += [gigabytes(found.resident), f"{estimate / found.resident:.2f}" if found.resident else "—"]
        cells += [gigabytes(kept.resident)]
    return f"| {' | '.join(cells)} |", abs(ratio - 1)


def gigabytes(number: int) -> str:
    return f"{number / 1e9:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--case", action="append", choices=CASES, help="may be repeated; all by default")
    parser.add_argument("--smoke", action="store_true", help="small sizes, and no page")
    parser.add_argument("--only", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--keep-memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(2)
    if options.only:
        case = smaller(CASES[options.only]) if options.smoke else CASES[options.only]
        print(json.dumps(asdict(measure(case, options.device, options.keep_memory))))
        return
    head = "| model | what | estimate, GB | allocated, GB | estimate ÷ allocated |"
    head += " resident, GB | estimate ÷ resident | resident as in commands, GB |" if options.device == "cpu" else ""
    lines, worst = [head, "|---" * (head.count("|") - 1) + "|"], 0.0
    for name in options.case or CASES:
        line, off = row(name, options.device, options.smoke)
        print(line, file=sys.stderr, flush=True)
        lines, worst = [*lines, line], max(worst, off)
    held = f"The estimate is within {worst:.1%} of what is allocated" + (
        ".\n\n" if worst < WITHIN else ", too far.\n\n"
    )
    page = held + __doc__.split("\n\n")[1].split("``--smoke``")[0].strip() + "\n\n" + "\n".join(lines)
    if options.smoke:
        print(page)
    else:
        write_page("memory", "Memory: estimates and peaks", page)


if __name__ == "__main__":
    main()
