"""One side of ``decode.py`` in a process of its own: an answer for each line it reads.

Threads, matrix precision and what is done with freed memory are settings of a whole process, hence one for each.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

import decode_ours as ours
import decode_peers as peers
import torch
from decode_models import Case, Task, cases_in
from decode_ours import Side
from worker import resident_peak

from pellucid.nn.memory import huge_pages

Weights = Literal["float32", "float16", "bfloat16", "int8"]
WIDTHS: Mapping[Weights, int] = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
MACHINE = "machine"
READ, PRODUCT = 256 * 2**20, 1024


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An engine and its settings.

    Attributes:
        make: opens a folder with such weights.
        needs: the modules it comes from, where those may be missing.
        medium: ``torch.set_float32_matmul_precision("medium")``, products by oneDNN.
        environment: of its process.
        exact: whether its results should be those of the one it is compared with.
        like: who that is.
    """

    make: Callable[[Path, str], Side]
    weights: Weights = "float32"
    needs: tuple[str, ...] = ()
    medium: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    exact: bool = True
    like: str = ""

    def with_weights(self, weights: Weights) -> Candidate:
        return replace(self, weights=weights, exact=self.exact and weights == "float32")


ENGINE = "pellucid.inference.engine"
GPT2, MARIAN, BERT = (f"transformers.models.{kind}.modeling_{kind}" for kind in ("gpt2", "marian", "bert"))
MKL = {"CT2_USE_MKL": "1"}
HF, HF_MEDIUM, HF_EARLY = "transformers float32", "transformers float32, medium", "transformers float32, medium, early"


def _ours(
    engine: Callable[[Path, str], Side], reference: Callable[[Path, str], Side], like: str = ""
) -> dict[str, Candidate]:
    found = {
        f"ours {weights}": Candidate(make=engine, needs=(ENGINE,), like=like).with_weights(weights)
        for weights in get_args(Weights)
    }
    return {**found, "ours-reference": Candidate(make=reference, like=like)}


def _ctranslate2(make: Callable[[Path, str], Side], like: str) -> dict[str, Candidate]:
    plain = Candidate(make=make, needs=("ctranslate2",), like=like)
    mkl = replace(plain, environment=MKL)
    return {
        "CTranslate2 float32": plain,
        "CTranslate2 int8": plain.with_weights("int8"),
        "CTranslate2 float32, MKL": mkl,
        "CTranslate2 int8, MKL": mkl.with_weights("int8"),
    }


def _transformers(make: Callable[[Path, str], Side], module: str) -> dict[str, Candidate]:
    plain = Candidate(make=make, needs=(module,))
    return {
        HF: plain,
        HF_MEDIUM: replace(plain, medium=True),
        "transformers bfloat16": plain.with_weights("bfloat16"),
    }


_static = Candidate(make=peers.transformers_writes_static, needs=(GPT2,), medium=True)
_early = Candidate(make=peers.transformers_translates_early, needs=(MARIAN,), medium=True, exact=False)
_sentences = Candidate(make=peers.sentence_transformers_embeds, needs=("sentence_transformers", BERT))
_graph = Candidate(make=peers.onnxruntime_embeds, needs=("onnxruntime",))
_fused = replace(_graph, make=peers.onnxruntime_embeds_fused)

CANDIDATES: Mapping[Task, Mapping[str, Candidate]] = {
    "gpt2": {
        **_ours(ours.engine_writes, ours.reference_writes),
        **_ctranslate2(peers.ctranslate2_writes, HF),
        **_transformers(peers.transformers_writes, GPT2),
        f"{HF_MEDIUM}, static cache": _static,
    },
    "translation": {
        **_ours(ours.engine_translates, ours.reference_translates, HF_EARLY),  # both search for as long
        **_ctranslate2(peers.ctranslate2_translates, HF_EARLY),
        **_transformers(peers.transformers_translates, MARIAN),
        HF_EARLY: _early,
    },
    "embeddings": {
        **_ours(ours.engine_embeds, ours.reference_embeds),
        "sentence-transformers float32": _sentences,
        "sentence-transformers float32, medium": replace(_sentences, medium=True),
        "sentence-transformers bfloat16": _sentences.with_weights("bfloat16"),
        "onnxruntime float32": _graph,
        "onnxruntime float32, fused": _fused,
        "onnxruntime int8, fused": _fused.with_weights("int8"),
    },
}
STANDARD: Mapping[Task, str] = {"gpt2": HF, "translation": HF, "embeddings": "sentence-transformers float32"}


def calibrate() -> dict[str, float]:
    """The machine's best of a few: bytes read a second, and operations of products of 1024 × 1024."""
    torch.set_float32_matmul_precision("medium")
    values = torch.ones(READ // 4)
    found = {"bandwidth": READ / _least(values.sum)}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a, b = (torch.randn(PRODUCT, PRODUCT).to(dtype) for _ in range(2))
        found[name] = 2 * PRODUCT**3 / _least(lambda a=a, b=b: a @ b)  # type: ignore[misc]
    found["float16"] = found["float32"]  # what is read as float16 is multiplied as float32
    a, b = (torch.randint(-127, 128, (PRODUCT, PRODUCT), dtype=torch.int8) for _ in range(2))
    found["int8"] = 2 * PRODUCT**3 / _least(lambda: torch._int_mm(a, b.t()))
    return found


def _least(call: Callable[[], Any], seconds: float = 0.25) -> float:
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)


def answers(side: Side, cases: Mapping[str, Case], lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """What each question takes: a case, how many of its rows and new tokens, and whether to show what came out."""
    for line in lines:
        asked = json.loads(line)
        case = Case(**asked["case"]) if isinstance(asked["case"], dict) else cases[asked["case"]]
        case = replace(case, new=asked.get("new", case.new), rows=case.rows[: asked.get("rows")])
        began = time.perf_counter()
        found = side(case)
        seconds = time.perf_counter() - began
        yield {"seconds": seconds, **({"found": found} if asked.get("show") else {})}


def serve(task: Task, name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Opens an engine, answers what is asked, and at the end tells the memory that it took."""
    if name == MACHINE:
        yield {"load": 0.0}
        yield from (calibrate() for _ in sys.stdin)
        return
    candidate = CANDIDATES[task][name]
    if candidate.medium:
        torch.set_float32_matmul_precision("medium")
    for module in candidate.needs:  # so that loading is of the model alone
        import_module(module)
    began = time.perf_counter()
    side = candidate.make(folder, candidate.weights)
    yield {"load": time.perf_counter() - began}
    yield from answers(side, {case.name: case for case in cases_in(folder)}, iter(sys.stdin))
    yield {"memory": resident_peak()}


def main(task: Task, name: str, folder: Path) -> None:
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints goes to the log, not among the answers
    peers.quieten()
    huge_pages()  # for all alike: it is of a process, and no engine's own
    torch.set_num_threads(peers.THREADS)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: peers.THREADS])
    if name == "prepare":
        peers.prepare(task, folder)
        return
    for answer in serve(task, name, folder):
        out.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))  # type: ignore[arg-type]
