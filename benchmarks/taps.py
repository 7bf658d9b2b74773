"""Does an idle tap cost anything? Models with their taps, and the same models with every tap taken out.

Prediction: a tap is one comparison with None, about 50 ns; a forward pass of a block has some twenty of them, so a
microsecond a block, below what can be measured against a block's hundreds of microseconds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from statistics import median

import torch
from common import interleaved, middle, require_quiet, write_page

from pellucid.config import model as config
from pellucid.config import preset
from pellucid.config.parts import Attention, FeedForward, Rotary, Stack
from pellucid.inference.decode import Prompt, generate
from pellucid.models.build import build
from pellucid.trace import Tapped, trace

ROUNDS = 21


def untapped(model: torch.nn.Module) -> torch.nn.Module:
    """A copy in which ``tap`` returns its tensor and asks nothing."""
    bare = copy.deepcopy(model)
    for module in bare.modules():
        if isinstance(module, Tapped):
            module.tap = lambda name, tensor, *operands: tensor
            module.is_watched = lambda *names: False
            module.mark_step = lambda step: None
    return bare


def training_step(model: torch.nn.Module, tokens: torch.Tensor) -> Callable[[], object]:
    def step() -> None:
        model.train()
        loss = model(tokens[:, :-1]).flatten(0, 1)
        torch.nn.functional.cross_entropy(loss, tokens[:, 1:].flatten()).backward()
        model.zero_grad()

    return step


def main() -> None:
    torch.set_num_threads(2)
    require_quiet()
    small = Stack(
        d_model=128,
        num_layers=4,
        attention=Attention(num_heads=4),
        feed_forward=FeedForward(d_ff=512),
        positions=Rotary(),
        placement="pre",
    )
    decoder = build(config.Decoder(front=config.Tokens(vocab_size=500), stack=small))
    pair = build(preset("multi30k-tiny").model).eval()
    tokens = torch.randint(0, 500, (8, 65))
    source, start = torch.randint(0, 500, (1, 12)), torch.zeros(1, 1, dtype=torch.long)
    rows = []
    for name, model, work in (
        ("training step, decoder 4×128, 8×64 tokens", decoder, lambda m: training_step(m, tokens)),
        (
            "32 tokens one by one, decoder 4×128",
            decoder,
            lambda m: lambda: generate(m, Prompt(start), max_new_tokens=32),
        ),
        (
            "32 tokens one by one, encoder–decoder 4+4×128",
            pair,
            lambda m: lambda: generate(m, Prompt(start, source=source), max_new_tokens=32),
        ),
    ):
        with trace(model, watch="nothing"):
            pass  # attached and detached once, as in a session
        times = interleaved({"with": work(model), "without": work(untapped(model))}, ROUNDS)
        ratios = [a / b for a, b in zip(times["with"], times["without"], strict=True)]
        rows.append(f"| {name} | {middle(times['with'])} | {middle(times['without'])} | {median(ratios):.3f} |")
    head = "| what | taps in place, ms | taps removed, ms | median ratio |\n|---|---|---|---|\n"
    note = f"\n\nMedians (ranges) of {ROUNDS} interleaved rounds; the ratio is the median of each round's own."
    write_page("taps", "The cost of an idle tap", head + "\n".join(rows) + note)


if __name__ == "__main__":
    main()
