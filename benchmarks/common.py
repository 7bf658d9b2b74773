"""What every benchmark needs: a quiet machine, interleaved runs, medians, a results page."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import median

import torch

from pellucid.nn.memory import keep_freed_memory

RESULTS = Path(__file__).parent / "results"


def others() -> float:
    """Cores that other processes kept busy during a second of our sleep."""

    def busy() -> tuple[float, float]:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        user, nice, system, _, _, irq, soft, steal = map(int, fields)
        own = os.times()
        return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK"), own.user + own.system

    before = busy()
    time.sleep(1)
    after = busy()
    return (after[0] - before[0]) - (after[1] - before[1])


def require_quiet(limit: float = 0.15) -> None:
    """Leaves unless the machine is ours alone: a second busy process makes small products many times slower."""
    if Path("/proc/stat").exists() and (used := others()) > limit:
        sys.exit(f"other processes use {used:.2f} cores; try again when the machine is quiet")


def prepare() -> None:
    """Two threads, memory kept as the commands that train keep it, a quiet machine."""
    torch.set_num_threads(2)
    keep_freed_memory()
    require_quiet()


def interleaved(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each candidate, one run of each a round, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in range(rounds + 1):
        for name, call in candidates.items():
            began = time.perf_counter()
            call()
            if run:
                times[name].append(time.perf_counter() - began)
    return times


def machine() -> str:
    """One line on what was measured on."""
    return f"{os.cpu_count()} cores of {processor()}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def processor() -> str:
    """Its name, which may be that of several generations, and what tells them apart: family and instructions."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in info.splitlines())}
    name, flags = facts.get("model name", platform.processor()), facts.get("flags", "").split()
    widest = next((each for each in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if each in flags), None)
    told = [f"family {facts['cpu family']}"] if "cpu family" in facts else []
    told += [widest] if widest else []
    return f"{name} ({', '.join(told)})" if told else name


def write_page(name: str, title: str, text: str) -> None:
    """Prints a results page and writes it to ``results/NAME.md``."""
    page = f"# {title}\n\n{date.today().isoformat()}, {machine()}\n\n    {_command(name)}\n\n{text.strip()}\n"
    print(page)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(page)


def _command(name: str) -> str:
    """What was called, but for the place of the data, which is another on every machine."""
    words = sys.argv[1:]
    for place in ("--mirror", "--folder"):
        if place in words:
            at = words.index(place)
            del words[at : at + 2]
    return shlex.join(["python", f"benchmarks/{name}.py", *words])


def spread(values: Sequence[float]) -> str:
    """Median and range of whole numbers."""
    return f"{median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f})"


def middle(times: list[float]) -> str:
    """Median and range in milliseconds."""
    low, high = min(times), max(times)
    return f"{1e3 * median(times):.2f} ({1e3 * low:.2f}–{1e3 * high:.2f})"
