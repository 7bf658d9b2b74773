"""Does an idle tap cost anything? Models with their taps, and the same models with every tap taken out.

Prediction: a tap is one comparison with None, about 50 ns; a forward pass of a block has some twenty of them, so a
microsecond a block, below what can be measured against a block's hundreds of microseconds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from statistics import median
from timeit import repeat

import torch
from common import interleaved, middle, require_quiet, write_page

from pellucid.config import model as config
from pellucid.config import preset
from pellucid.config.parts import Attention, FeedForward, Rotary, Stack
from pellucid.inference.decode import Prompt, generate
from pellucid.models.build import build
from pellucid.trace import Tapped, trace

ROUNDS = 601  # one round differs from the next by several percent, and a percent is asked for


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


def counted(model: torch.nn.Module, call: Callable[[], object]) -> float:
    """Seconds that the taps of a call take, less what calling nothing takes: their number times the cost of one."""
    calls = {"tap": 0, "is_watched": 0}
    tap, is_watched = Tapped.tap, Tapped.is_watched

    def counting(name: str, plain: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object) -> object:
            calls[name] += 1
            return plain(*given)

        return call

    Tapped.tap, Tapped.is_watched = counting("tap", tap), counting("is_watched", is_watched)  # type: ignore[assignment]
    try:
        call()
    finally:
        Tapped.tap, Tapped.is_watched = tap, is_watched  # type: ignore[method-assign]
    module = next(each for each in model.modules() if isinstance(each, Tapped))
    bare, x = next(each for each in untapped(model).modules() if isinstance(each, Tapped)), torch.zeros(1)

    def each(of: Tapped) -> tuple[float, float]:
        number = 200_000
        taps = min(repeat(lambda: of.tap("q", x, x, x), number=number, repeat=5)) / number
        asked = min(repeat(lambda: of.is_watched("mask", "scores", "weights"), number=number, repeat=5)) / number
        return taps, asked

    return sum((one - none) * count for one, none, count in zip(each(module), each(bare), calls.values(), strict=True))


def bounds(values: list[float]) -> tuple[float, float]:
    """Where the median lies with 95 % certainty, whatever the distribution: two of the values in their order."""
    ordered, half = sorted(values), 0.98 * len(values) ** 0.5
    return ordered[int(len(values) / 2 - half)], ordered[int(len(values) / 2 + half)]


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
        cost = counted(model, work(model))
        times = interleaved({"with": work(model), "without": work(untapped(model))}, ROUNDS)
        ratios = [a / b for a, b in zip(times["with"], times["without"], strict=True)]
        ratio = f"{median(ratios):.4f} | {' to '.join(f'{bound:.4f}' for bound in bounds(ratios))}"
        share = f"{cost / median(times['without']):.2%}"
        rows.append(f"| {name} | {middle(times['with'])} | {middle(times['without'])} | {ratio} | {share} |")
    head = "| what | taps in place, ms | taps removed, ms | median ratio | 95 % interval | by counting |\n"
    head += "|---" * 6 + "|\n"
    note = (
        f"\n\nMedians (ranges) of {ROUNDS} interleaved rounds; the ratio is the median of each round's own, its "
        "interval that of the order statistics of a median. By counting: how often taps are called, times what one "
        "costs more than an empty method, as a share of the run without; the clock cannot tell a percent here."
    )
    write_page("taps", "The cost of an idle tap", head + "\n".join(rows) + note)


if __name__ == "__main__":
    main()
