"""The results page of ``decode.py``: what the turns say, as tables."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from common import RESULTS, machine
from decode_models import TASKS, Case, Costs, Task, costs
from decode_peers import FUSIONS
from decode_rounds import LEAST_SECONDS, MOST_CALLS, Plan, Record
from decode_worker import CANDIDATES, STANDARD, WIDTHS

Peaks = Mapping[str, Sequence[Mapping[str, float]]]
PACKAGES = ("transformers", "ctranslate2", "sentence-transformers", "onnxruntime")
CLOSE = 1e-4  # two float32 embeddings of unit length


@dataclass(frozen=True)
class Speed:
    """What an engine did of a case: milliseconds of each step, and rates and shares as medians over the rounds."""

    steps: list[float]
    first: float | None
    tokens: float
    rows: float
    bandwidth: float
    peak: float


def section(
    task: Task, folder: Path, cases: Sequence[Case], records: Mapping[str, Record], peaks: Peaks, plan: Plan
) -> tuple[str, dict[str, Any]]:
    """The section of a task, and the raw figures."""
    ran = {name: record for name, record in records.items() if record.turns}
    price = costs(task, folder)
    speeds = {case.name: {name: speed(task, name, case, ran[name], peaks, price) for name in ran} for case in cases}
    parts = [f"## {task}", heading(task, plan), "\n".join(engines(task, cases, records))]
    for case in cases:
        parts += [f"### {task}: {case.name}", described(task, case), "\n".join(table(task, speeds[case.name]))]
        if against := ratios(case, ran):
            parts.append("\n".join(against))
    parts.append(notes(task, ran, peaks, plan))
    if (told := folder / FUSIONS).exists():
        fusions = json.loads(told.read_text())
        counts = ", ".join(f"{count} {name}" for name, count in fusions.items() if count) or "nothing"
        parts.append(f"onnxruntime's fusions for BERT found {counts}.")
    figures = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "peaks": peaks,
        "engines": {name: kept(record) for name, record in records.items()},
        "speeds": {case: {name: asdict(row) for name, row in rows.items()} for case, rows in speeds.items()},
    }
    return "\n\n".join(parts), figures


def kept(record: Record) -> dict[str, Any]:
    """A record without what came out, which is large and compared."""
    return {
        "load": record.load,
        "memory": record.memory,
        "missing": record.missing,
        "bleu": record.bleu,
        "turns": {case: [asdict(turn) for turn in turns] for case, turns in record.turns.items()},
    }


# ---- figures -------------------------------------------------------------------------------------


def speed(task: Task, name: str, case: Case, record: Record, peaks: Peaks, price: Costs) -> Speed:
    """Rates of a case, and the shares of what the machine did in the same round."""
    weights = CANDIDATES[task][name].weights
    work = works(task, case, record.found[case.name], price, WIDTHS[weights])
    turns, ours = record.turns[case.name], peaks[case.name]
    seconds = [median(turn.calls) for turn in turns]
    firsts = [turn.first for turn in turns if turn.first is not None]
    each = work.steps - 1 if firsts else work.steps
    steps = [[(call - (turn.first or 0.0)) / each for call in turn.calls] for turn in turns]
    return Speed(
        steps=[1e3 * step for turn in steps for step in turn],
        first=1e3 * median(firsts) if firsts else None,
        tokens=median(work.tokens / whole for whole in seconds),
        rows=median(len(case.rows) / whole for whole in seconds),
        bandwidth=median(work.read / peak["bandwidth"] / median(now) for now, peak in zip(steps, ours, strict=True)),
        peak=median(work.flops / peak[weights] / median(now) for now, peak in zip(steps, ours, strict=True)),
    )


@dataclass(frozen=True)
class Work:
    """Steps of a case, a text being one where nothing is written; operations and bytes of each; tokens in all."""

    steps: int
    flops: float
    read: float
    tokens: int


def works(task: Task, case: Case, found: Sequence[Sequence[int]], price: Costs, width: int) -> Work:
    """What a case takes; tokens are those that come out, ends counted, or else those that go in."""
    if task == "embeddings":
        lengths = [len(text.split()) + 2 for text in case.rows]  # a token a word, and one before and behind
        return Work(len(lengths), price.reading_flops(lengths) / len(lengths), 0.0, sum(lengths))
    if case.beams == 1:
        length, source, steps = len(case.rows[0]) + case.new / 2, 0.0, case.new
        tokens = sum(map(len, found))
    else:
        length, source = mean(map(len, found)) / 2, mean(map(len, case.rows))
        written = [min(len(row) + 1, case.new) for row in found]
        steps, tokens = sum(max(written[i] for i in places) for places in case.chunks()), sum(written)
    return Work(steps, price.step_flops(case, length, source), price.step_bytes(case, width, length, source), tokens)


# ---- tables --------------------------------------------------------------------------------------


def table(task: Task, speeds: Mapping[str, Speed]) -> Iterator[str]:
    step = {"gpt2": "ms/step", "translation": "ms/step", "embeddings": "ms/text"}[task]
    head = ["engine", f"{step}, p50", "p95", "tokens/s"]
    head += {"gpt2": ["first token, ms"], "translation": ["sentences/s"], "embeddings": ["texts/s"]}[task]
    head += ["of the peak"] if task == "embeddings" else ["of the bandwidth", "of the peak"]
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for name, row in speeds.items():
        ordered = sorted(row.steps)
        cells = [name, f"{median(ordered):.2f} ({ordered[0]:.2f}–{ordered[-1]:.2f})"]
        cells += [f"{ordered[round(0.95 * (len(ordered) - 1))]:.2f}", f"{row.tokens:,.0f}"]
        cells.append(f"{row.rows:,.1f}" if row.first is None else f"{row.first:,.1f}")
        cells += [] if task == "embeddings" else [f"{row.bandwidth:.0%}"]
        yield f"| {' | '.join([*cells, f'{row.peak:.0%}'])} |"


def ratios(case: Case, ran: Mapping[str, Record]) -> list[str]:
    """How many times as fast each of ours is as each peer: whole calls, medians of each round's own ratio."""
    ours = [name for name in ran if name.startswith("ours")]
    theirs = [name for name in ran if not name.startswith("ours")]
    if not ours or not theirs:
        return []

    def ratio(one: str, other: str) -> float:
        turns = zip(ran[one].turns[case.name], ran[other].turns[case.name], strict=True)
        return median(median(b.calls) / median(a.calls) for a, b in turns)

    lines = [f"| times as fast as | {' | '.join(ours)} |", "|---" * (len(ours) + 1) + "|"]
    lines += [f"| {peer} | {' | '.join(f'{ratio(name, peer):.2f}' for name in ours)} |" for peer in theirs]
    return lines


def engines(task: Task, cases: Sequence[Case], records: Mapping[str, Record]) -> Iterator[str]:
    """What does not depend on the case: memory, loading, and whether results agree."""
    scored = any(record.bleu is not None for record in records.values())
    head = ["engine", "weights", "load, s", "peak memory, GB", "results", *(["BLEU"] if scored else [])]
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for name, record in records.items():
        weights = CANDIDATES[task][name].weights
        if record.missing:
            said = record.missing.replace("|", "/")[:120]
            yield f"| {name} | {weights} | {said} |" + " |" * (len(head) - 3)
            continue
        cells = [
            name,
            weights,
            f"{record.load:.2f}",
            f"{record.memory / 1e9:.2f}",
            agreement(task, name, cases, records),
        ]
        if scored:
            cells.append("" if record.bleu is None else f"{record.bleu:.2f}")
        yield f"| {' | '.join(cells)} |"


def agreement(task: Task, name: str, cases: Sequence[Case], records: Mapping[str, Record]) -> str:
    """How results compare with those of the engine they are compared with; what should be equal and is not is bold."""
    candidate = CANDIDATES[task][name]
    like = next((n for n in (candidate.like, STANDARD[task]) if n in records and not records[n].missing), None)
    if like is None or like == name:
        return "compared with" if like else "not compared"
    pairs = [
        pair
        for case in cases
        for pair in zip(records[name].found[case.name], records[like].found[case.name], strict=True)
    ]
    if task == "embeddings":
        one, other = (torch.tensor([pair[i] for pair in pairs]) for i in (0, 1))
        off, cosine = float((one - other).abs().max()), float((one * other).sum(-1).min())
        said, fine = f"within {off:.1e}, cosine at least {cosine:.4f}", off < CLOSE
    else:
        equal = sum(one == other for one, other in pairs)
        said, fine = f"{equal} of {len(pairs)} rows equal, {_alike(pairs):.1%} of the tokens", equal == len(pairs)
    said = f"{said} ({like})" if candidate.like == like else said
    return said if fine or not candidate.exact else f"**{said}**"


def _alike(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> float:
    """The share of tokens before the first that differs."""
    same = 0
    for one, other in pairs:
        length = min(len(one), len(other))
        same += next((i for i in range(length) if one[i] != other[i]), length)
    return same / max(1, sum(len(other) for _, other in pairs))


# ---- words ---------------------------------------------------------------------------------------


def heading(task: Task, plan: Plan) -> str:
    told = f"`{shlex.join(['decode.py', *sys.argv[1:]])}`"
    weights = "random weights"
    if task == "translation" and plan.run:
        weights = f"the run `{Path(plan.run).name}`"
    return f"{date.today().isoformat()}, {machine()}; {told}; {weights}. {', '.join(versions().values())}."


def versions() -> dict[str, str]:
    """Of the peers, of ours, and of the machine what decides about kernels."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    found |= {"pellucid": f"pellucid at {commit}"} if commit else {}
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else platform.processor()
    known = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if flag in flags]
    found["flags"] = " ".join(known)
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if pages.exists():
        found["huge pages"] = f"huge pages {pages.read_text().split('[')[1].split(']')[0]}"
    return found


def described(task: Task, case: Case) -> str:
    if task == "embeddings":
        return (
            f"{len(case.rows)} texts, cutting them into tokens included; the others read them in whichever batches are "
            "the fastest of 4, 8, 16 and 32."
        )
    if case.beams == 1:
        return f"{case.new} tokens forced, greedy. A step is a call less the first token, over {case.new - 1}."
    rows = sum(map(len, case.rows)) / len(case.rows)
    return (
        f"{len(case.rows)} sentences of {rows:.1f} tokens, {case.beams} beams, at most {case.new} tokens, length "
        "penalty 1. A step is a call over the steps that the longest text of each batch needs, its source being read "
        "included."
    )


def notes(task: Task, ran: Mapping[str, Record], peaks: Peaks, plan: Plan) -> str:
    """How it was measured."""
    every = [peak for rows in peaks.values() for peak in rows]
    if not every or not ran:
        return "Nothing ran."
    told = {name: median(peak[name] for peak in every) / 1e9 for name in every[0]}
    used = max(turn.others for record in ran.values() for turns in record.turns.values() for turn in turns)
    operations = ", ".join(f"{name} {told[name]:.0f}" for name in WIDTHS)
    limits = (
        "Shares are of what the machine did in the same round, in a process of its own: reading 256 MB, "
        f"{told['bandwidth']:.1f} GB/s; products of 1024 × 1024, GFLOP/s: {operations}. "
    )
    if task != "embeddings":
        limits += (
            "A step reads the weights of the layers and the head once (those that project keys and values of the "
            "source left out), float32 keys and values of all rows up to its middle length, and those of each source "
            "once. "
        )
    return (
        f"Medians (ranges) of {plan.rounds} interleaved rounds, in each of which an engine is warmed and then called "
        f"until {LEAST_SECONDS} s have passed, {MOST_CALLS} times at most; p50 and p95 are over all calls, ratios and "
        f"shares medians of each round's own. Every process keeps freed memory and asks for pages of 2 MB. {limits}"
        f"Memory is the most that was resident, libraries included. In no turn did others use more than {used:.2f} "
        f"cores. Results are compared before anything is timed."
    )


def with_old_sections(new: Mapping[str, str]) -> str:
    """The whole page: new sections, and from the page as it is those of tasks that were not run."""
    page = RESULTS / "decode.md"
    old = page.read_text().split("\n## ")[1:] if page.exists() else []
    sections = {part.split("\n", 1)[0].strip(): f"## {part.strip()}" for part in old} | dict(new)
    return "\n\n".join(sections[name] for name in TASKS if name in sections)
