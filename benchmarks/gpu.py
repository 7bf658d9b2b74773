"""How fast does pellucid train and write on a GPU, and how fast does transformers? The same models, random tokens.

Training is a GPT of the size of GPT-2 small, writing is greedy with a cache. All candidates are in one
process and take turns; what a GPU was asked is waited for before a clock is read. Without a GPU the page says so.
``--device cpu --noisy`` goes through everything once in a small size and writes nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import peers
import torch
from common import interleaved, require_quiet, spread, write_page
from shapes import Work, flops_per_token, gpt
from torch import Tensor, nn
from worker import ENDLESS, Cycle

from pellucid.config import model as config
from pellucid.config.run import Causal, Training
from pellucid.config.schema import from_dict
from pellucid.data.batch import Batch
from pellucid.inference.decode import Prompt, generate
from pellucid.inference.engine import Engine
from pellucid.models.build import build
from pellucid.training.loop import train

VOCAB = 50_304
PROMPT, WRITTEN = 32, 256


@dataclass(frozen=True)
class Size:
    """What is trained and written; ``peak`` is the size of the product that says what the device can do."""

    model: config.Decoder
    rows: int
    length: int
    steps: int
    prompts: tuple[int, ...]
    written: int
    peak: int

    @property
    def tokens(self) -> int:
        """Of the timed steps of a turn."""
        return self.steps * self.rows * self.length


FULL = Size(
    gpt(12, 768, 12, VOCAB, 1024), rows=16, length=1024, steps=10, prompts=(1, 8, 64), written=WRITTEN, peak=8192
)
SMOKE = Size(gpt(2, 64, 2, 500, 64), rows=2, length=32, steps=2, prompts=(1, 2), written=4, peak=256)


# ---- training ----------------------------------------------------------------------------------


def work_on(size: Size, device: str) -> Work:
    """A random batch that lies on the device already."""
    vocab = size.model.front.vocab_size
    torch.manual_seed(0)
    tokens = torch.randint(vocab, (size.rows, size.length + 1), device=device)
    return Work(
        size.model, Causal(length=size.length), [Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())]
    )


def ours(work: Work, device: str, compiled: bool, recompute: bool = False) -> Iterator[float]:
    settings = {**ENDLESS, "precision": "bfloat16", "recompute": recompute, "compile": compiled}
    training: Training = from_dict(Training, settings)
    model = build(work.model).to(device)
    return (step.loss for step in train(model, Cycle(work), work.objective, training))


def theirs(make: Callable[[Work, bool], peers.Peer], work: Work, device: str, compiled: bool) -> Iterator[float]:
    training: Training = from_dict(Training, {**ENDLESS, "precision": "bfloat16"})
    peer = make(work, False)
    peer.model.to(device)
    if compiled:
        peer.model.compile()
    return peers.updates(peer, work.batches, training, fused=True)


def training_candidates(work: Work, device: str) -> Mapping[str, Callable[[], Iterator[float]]]:
    return {
        "pellucid": partial(ours, work, device, compiled=False),
        "pellucid, compiled": partial(ours, work, device, compiled=True),
        "pellucid, recomputing": partial(ours, work, device, compiled=False, recompute=True),
        "plain GPT": partial(theirs, peers.plain_gpt, work, device, compiled=False),
        "plain GPT, compiled": partial(theirs, peers.plain_gpt, work, device, compiled=True),
        "transformers GPT-2": partial(theirs, peers.transformers_gpt2, work, device, compiled=False),
        "transformers GPT-2, compiled": partial(theirs, peers.transformers_gpt2, work, device, compiled=True),
    }


def training_table(size: Size, device: str, rounds: int) -> str:
    """Everyone's speed, share of the peak and memory; each in turn, because memory need not hold all at once."""
    work, flops = work_on(size, device), flops_per_token(size.model, size.length)
    runs = {name: make() for name, make in training_candidates(work, device).items()}
    memory: dict[str, float] = {}

    def steps(name: str) -> None:
        for _ in range(size.steps):
            next(runs[name])
        wait(device)

    for name in runs:  # builds, compiles
        memory[name] = peak_memory(device, partial(steps, name))
    turns = {name: partial(steps, name) for name in runs}
    times = interleaved({**turns, "peak": partial(product, *factors(size, device), device)}, rounds)
    most = median(2 * size.peak**3 / seconds for seconds in times.pop("peak"))
    rows = []
    for name, seconds in times.items():
        rates = [size.tokens / s for s in seconds]
        ratio = median(s / own for s, own in zip(seconds, times["pellucid"], strict=True))
        share = flops * median(rates) / most
        rows.append(f"| {name} | {spread(rates)} | {ratio:.2f} | {share:.0%} | {memory[name]:.2f} |")
    head = "| candidate | tokens/s | time ÷ pellucid's | of the peak | memory it added, GB |\n|---|---|---|---|---|\n"
    about = f"{size.model.stack.num_layers} layers of {size.model.stack.d_model}, {size.rows} × {size.length} tokens, "
    about += f"bfloat16 autocast, fused AdamW; the peak is a {size.peak}³ product: {most / 1e12:.1f} TFLOP/s."
    return f"## Training\n\n{about}\n\n{head}" + "\n".join(rows)


def factors(size: Size, device: str) -> tuple[Tensor, Tensor]:
    """Random ones: a GPU takes less power for equal numbers, and is clocked higher than it is for a model."""
    a, b = (torch.randn(size.peak, size.peak, device=device).bfloat16() for _ in range(2))
    return a, b


def product(a: Tensor, b: Tensor, device: str) -> None:
    a @ b
    wait(device)


# ---- writing -----------------------------------------------------------------------------------


def writing_table(size: Size, device: str, rounds: int) -> str:
    """Greedy and without an end, so that every candidate writes as many tokens."""
    work = work_on(replace(size, rows=1), device)
    model = build(size.model).to(device, torch.bfloat16).eval()
    other = peers.transformers_gpt2(work, False).model.to(device, torch.bfloat16).eval()
    other.generation_config.eos_token_id = None
    engine, unrecorded = Engine(model, "bfloat16"), Engine(model, "bfloat16")
    unrecorded.recorder = None
    rows = []
    for count in size.prompts:
        tokens = torch.randint(size.model.front.vocab_size, (count, min(PROMPT, size.length // 2)), device=device)
        written = min(size.written, size.length - tokens.size(1))
        candidates = {
            "pellucid": partial(write, model, tokens, written, device, engine),
            "pellucid, steps not recorded": partial(write, model, tokens, written, device, unrecorded),
            "pellucid, the model itself": partial(write, model, tokens, written, device, None),
            "transformers": partial(write_theirs, other, tokens, written, device, None),
            "transformers, static cache, compiled": partial(write_theirs, other, tokens, written, device, "static"),
        }
        times = interleaved(candidates, rounds)
        for name, seconds in times.items():
            ratio = median(s / own for s, own in zip(seconds, times["pellucid"], strict=True))
            rows.append(f"| {count} | {name} | {spread([count * written / s for s in seconds])} | {ratio:.2f} |")
    head = "| rows | candidate | tokens/s | time ÷ pellucid's |\n|---|---|---|---|\n"
    about = f"Greedy, {PROMPT} tokens read and {size.written} written, bfloat16 weights, with a cache."
    return f"## Writing\n\n{about}\n\n{head}" + "\n".join(rows)


def write(model: nn.Module, tokens: Tensor, count: int, device: str, writer: Engine | None) -> None:
    rows = generate(model, Prompt(tokens), max_new_tokens=count, writer=writer)  # type: ignore[arg-type]
    assert all(len(row) == count for row in rows)
    wait(device)


@torch.inference_mode()
def write_theirs(model: nn.Module, tokens: Tensor, count: int, device: str, cache: str | None) -> None:
    given = {} if cache is None else {"cache_implementation": cache}
    settings = {"do_sample": False, "min_new_tokens": count, "max_new_tokens": count, "use_cache": True, **given}
    found = model.generate(tokens, attention_mask=torch.ones_like(tokens), pad_token_id=0, **settings)  # type: ignore[operator]
    assert found.size(1) == tokens.size(1) + count
    wait(device)


# ---- the page ----------------------------------------------------------------------------------


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_memory(device: str, call: Callable[[], None]) -> float:
    """What a call adds to the device's memory at most, in gigabytes; 0 on a CPU."""
    if device != "cuda":
        call()
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return (torch.cuda.max_memory_allocated() - before) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--noisy", action="store_true", help="a small run, whatever others do; writes no page")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        write_page("gpu", "On a GPU", "Not measured: this machine has no GPU that torch can use.")
        return
    if not options.noisy:
        require_quiet()
    size = SMOKE if options.noisy else FULL
    tables = [table(size, options.device, options.rounds) for table in (training_table, writing_table)]
    page = "\n\n".join(tables)
    if options.noisy:
        print(page)
    else:
        write_page("gpu", "On a GPU", f"{torch.cuda.get_device_name()}.\n\n{page}")


if __name__ == "__main__":
    main()
