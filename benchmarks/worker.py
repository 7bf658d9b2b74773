"""One candidate of ``train.py`` in a process of its own: a step for each line it reads.

Matrix precision and what glibc does with freed memory are settings of a whole process, hence one for each.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Literal, TextIO

import peers
import torch
from peers import Peer
from shapes import Work
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from yardsticks import KERNELS, PEAK, Yardstick, kernels_alone, peak, products_alone

from pellucid.config import model as config
from pellucid.config.run import Training
from pellucid.config.schema import from_dict
from pellucid.data.batch import Batch
from pellucid.models.build import build
from pellucid.nn.memory import keep_freed_memory
from pellucid.training.loop import train

# Nothing warms up, and at a rate of 5e-4 the losses of twelve layers have spikes.
ENDLESS = {"steps": 1_000_000, "schedule": {"kind": "constant", "peak": 2e-4}}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Who trains, and with what settings.

    Attributes:
        peer: what makes the model; ``None`` is pellucid, in its own loop.
        needs: the package it comes from, where that may be missing.
        precision: bfloat16 is autocast.
        matmul: what ``torch.set_float32_matmul_precision`` is given.
        fused: AdamW in one kernel; pellucid's always is.
        keep_memory: freed memory is kept for the next step.
        plain_attention: products and softmax instead of the fused kernel; pellucid chooses by itself.
        compiled: by ``torch.compile``; pellucid's blocks, one at a time.
        recompute: blocks are computed once more in the backward pass, for memory.
    """

    peer: Callable[[Work, bool], Peer] | None
    needs: str = "torch"
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    matmul: Literal["highest", "medium"] = "medium"
    fused: bool = True
    keep_memory: bool = True
    plain_attention: bool = False
    compiled: bool = False
    recompute: bool = False

    def __str__(self) -> str:
        attention = "plain attention" if self.plain_attention else "fused attention"
        settings = {
            "bfloat16 autocast" if self.precision == "bfloat16" else "float32": True,
            f"float32 matmul {self.matmul}": self.matmul != "highest",
            "fused AdamW": self.fused,
            "freed memory kept": self.keep_memory,
            "kernel auto" if self.peer is None else attention: True,
            "compiled": self.compiled,
            "blocks recomputed": self.recompute,
        }
        return ", ".join(text for text, holds in settings.items() if holds)


# What `pellucid train` sets by itself: "medium" is its precision float32-medium.
_OURS: Mapping[str, Candidate] = {
    "pellucid, bfloat16": Candidate(peer=None, matmul="highest"),
    "pellucid, float32": Candidate(peer=None, precision="float32"),
}
_AS_FOUND: Mapping[str, Any] = {"precision": "float32", "matmul": "highest", "fused": False, "keep_memory": False}

GPT: Mapping[str, Candidate] = {
    **_OURS,
    "pellucid, bfloat16, compiled": Candidate(peer=None, matmul="highest", compiled=True),
    "pellucid, bfloat16, recomputing": Candidate(peer=None, matmul="highest", recompute=True),
    "plain GPT": Candidate(peer=peers.plain_gpt, **_AS_FOUND),
    "plain GPT, compiled": Candidate(peer=peers.plain_gpt, **_AS_FOUND, compiled=True),
    "plain GPT, tuned": Candidate(peer=peers.plain_gpt),
    "plain GPT, tuned, plain attention": Candidate(peer=peers.plain_gpt, plain_attention=True),
    "plain GPT, tuned, compiled": Candidate(peer=peers.plain_gpt, compiled=True),
    "plain GPT, tuned, plain attention, compiled": Candidate(peer=peers.plain_gpt, plain_attention=True, compiled=True),
    "transformers GPT-2, tuned": Candidate(peer=peers.transformers_gpt2, needs="transformers"),
    "transformers GPT-2, tuned, plain attention": Candidate(
        peer=peers.transformers_gpt2, needs="transformers", plain_attention=True
    ),
    "x-transformers, tuned": Candidate(peer=peers.x_transformers_gpt, needs="x_transformers"),
    "x-transformers, tuned, plain attention": Candidate(
        peer=peers.x_transformers_gpt, needs="x_transformers", plain_attention=True
    ),
}

ENCODER_DECODER: Mapping[str, Candidate] = {
    **_OURS,
    "torch.nn.Transformer, tuned": Candidate(peer=peers.torch_transformer),
    "torch.nn.Transformer, tuned, plain attention": Candidate(peer=peers.torch_transformer, plain_attention=True),
    "torch.nn.Transformer, tuned, plain attention, float32": Candidate(
        peer=peers.torch_transformer, plain_attention=True, precision="float32"
    ),
    "transformers Marian, tuned": Candidate(peer=peers.transformers_marian, needs="transformers"),
    "transformers Marian, tuned, plain attention": Candidate(
        peer=peers.transformers_marian, needs="transformers", plain_attention=True
    ),
    "transformers Marian, tuned, plain attention, float32": Candidate(
        peer=peers.transformers_marian, needs="transformers", plain_attention=True, precision="float32"
    ),
}


def candidates(model: config.Model) -> Mapping[str, Candidate]:
    """Who can train a model; the first is who the others are compared with."""
    return GPT if isinstance(model, config.Decoder) else ENCODER_DECODER


class Cycle:
    """Training batches that begin again after the last."""

    def __init__(self, work: Work) -> None:
        self.batches = work.batches

    def __getitem__(self, index: int) -> Batch:
        return self.batches[index % len(self.batches)]


@dataclass(frozen=True)
class Trainee:
    """A model and its losses, each of which is computed by one more step; amounts of work of the steps in turn."""

    parameters: int
    losses: Iterator[float]
    amounts: list[int]


def trainee(candidate: Candidate, work: Work) -> Trainee:
    """Sets the process up for a candidate and builds it; labels are counted as work."""
    if candidate.keep_memory:
        keep_freed_memory()
    torch.set_float32_matmul_precision(candidate.matmul)
    torch.manual_seed(0)
    training: Training = from_dict(
        Training,
        {
            **ENDLESS,
            "precision": candidate.precision,
            "recompute": candidate.recompute,
            "compile": candidate.compiled and candidate.peer is None,
        },
    )
    if candidate.peer is None:
        model: nn.Module = build(work.model)
        losses = (step.loss for step in train(model, Cycle(work), work.objective, training))
    else:
        peer = candidate.peer(work, candidate.plain_attention)
        model = peer.model
        if candidate.compiled:
            model.compile()
        losses = peers.updates(peer, work.batches, training, fused=candidate.fused)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Trainee(parameters, losses, [batch.num_labels for batch in work.batches])


def yardstick(name: str, work: Work) -> Trainee:
    """What is timed like a candidate and learns nothing."""
    found: Yardstick = peak() if name == PEAK else (kernels_alone if name == KERNELS else products_alone)(work)
    return Trainee(0, found.steps, found.amounts)


def attention_of(candidate: Candidate | None) -> AbstractContextManager[None]:
    """Fused attention computed by plain products, in bfloat16 where its inputs are, if the candidate wants that."""
    if candidate is None or not candidate.plain_attention:
        return nullcontext()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # holds for the CPU too
    return sdpa_kernel(SDPBackend.MATH)


def resident_peak() -> int:
    """The most bytes this process has had in memory, where the system tells; else 0."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def serve(steps: Trainee, answers: TextIO) -> None:
    """Answers each line with what one more step did, and the end of the input with the memory that it all took."""
    for _, amount in zip(sys.stdin, cycle(steps.amounts), strict=False):
        began = time.perf_counter()
        loss = next(steps.losses)
        seconds = time.perf_counter() - began
        answers.write(json.dumps({"seconds": seconds, "loss": loss, "amount": amount}) + "\n")
    answers.write(json.dumps({"memory": resident_peak()}) + "\n")


def main(name: str, path: str) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints goes to the log, not among the answers
    work: Work = pickle.loads(Path(path).read_bytes())
    candidate = candidates(work.model).get(name)
    steps = yardstick(name, work) if candidate is None else trainee(candidate, work)
    answers.write(json.dumps({"parameters": steps.parameters}) + "\n")
    with attention_of(candidate):
        serve(steps, answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
