"""Why a warm-up, and why norms before the sub-layers: what a deep model does with a full rate from the first step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pellucid.config.model import Tokens, XavierInit
from pellucid.config.parts import Rotary
from pellucid.lab.experiment import Experiment, Measured, Say, Verdict
from pellucid.lab.figures import curve
from pellucid.lab.fitting import Rows, fit, loss_of
from pellucid.lab.makers import decoder
from pellucid.lab.reading import spread
from pellucid.lab.tasks import from_places
from pellucid.models.build import build
from pellucid.models.decoder import Decoder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPTHS = (2, 6, 12)
VOCAB, BACK, LENGTH, WIDTH, ROWS, JUDGED = 8, (1, 2), 16, 32, 16, 128
STEPS, PEAK, WARMUP = 500, 1.25e-3, 200
PLACEMENTS = ("post", "pre")
SETTINGS = {
    f"{placement}, {'with' if warmup else 'no'} warm-up": (placement, warmup)
    for placement in PLACEMENTS
    for warmup in (False, True)
}
GUESSING = len(BACK) * math.log(VOCAB)
TRAINED = 0.5  # of the loss of guessing: whoever ends above it has not learned what is asked


def make(depth: int, placement: str) -> Decoder:
    """A decoder that starts as the paper's code has it: Xavier, and tokens that are scaled (§3.4 of the paper)."""
    vocab = VOCAB ** len(BACK)
    config = decoder(vocab, width=WIDTH, layers=depth, positions=Rotary(), placement=placement).config
    return build(replace(config, front=Tokens(vocab_size=vocab, scaled=True), init=XavierInit()))


def slope(model: Decoder, rows: Rows) -> list[float]:
    """The norm of the gradient of each layer's last weights, by layer: what Xiong et al. show in figure 3."""
    loss_of(model, rows).backward()
    found = []
    for block in model.blocks:
        grads = [p.grad for p in block.get_submodule("feed_forward").parameters() if p.ndim > 1 and p.grad is not None]
        found.append(math.sqrt(sum(float(grad.square().sum()) for grad in grads)))
    model.zero_grad(set_to_none=True)
    return found


def measure(seed: int, say: Say) -> Measured:
    """Nats per label at the end, by setting and depth; the gradients of the deepest model before the first step."""
    task = partial(from_places, length=LENGTH, vocab=VOCAB, back=BACK)
    found: dict[str, list[float | None]] = {}
    for name, (placement, warmup) in SETTINGS.items():
        found[name] = []
        for depth in DEPTHS:
            model = make(depth, placement)
            for _ in fit(model, lambda: task(ROWS), STEPS, peak=PEAK, warmup=WARMUP if warmup else 0, clip=None):
                pass
            model.eval()
            loss = loss_of(model, task(JUDGED)).item()
            found[name].append(loss if math.isfinite(loss) else None)  # JSON has no NaN
            say(f"{name}, {depth} layers: {loss:.2f} nats")
    slopes = {placement: slope(make(DEPTHS[-1], placement), task(JUDGED)) for placement in PLACEMENTS}
    return {"depths": list(DEPTHS), "nats": found, "gradients": slopes}


def ends(results: Sequence[Measured], name: str, at: int) -> list[float]:
    """The losses of a setting at a depth; one that is no number counts as twice that of guessing."""
    return [2 * GUESSING if r["nats"][name][at] is None else r["nats"][name][at] for r in results]


def judge(results: Sequence[Measured]) -> Verdict:
    """Whether only post-norm without warm-up breaks down in the deepest model, with every seed."""
    deepest = results[0]["depths"][-1]
    last = {name: ends(results, name, -1) for name in SETTINGS}
    bare, *others = SETTINGS  # the first is post-norm without warm-up
    shows = min(last[bare]) > TRAINED * GUESSING and all(max(last[name]) <= TRAINED * GUESSING for name in others)
    said = f"With {deepest} layers the loss ends at "
    said += ", ".join(f"{spread(last[name])} ({name})" for name in SETTINGS)
    said += f"; guessing is {GUESSING:.2f}."
    if not shows:
        said += " That only post-norm without warm-up fails does not show with every seed."
    lost = sum(loss is None for r in results for losses in r["nats"].values() for loss in losses)
    if lost:
        said += f" {lost} runs ended in no number, and count as {2 * GUESSING:.1f}."
    slopes = {placement: spread([r["gradients"][placement][-1] for r in results]) for placement in PLACEMENTS}
    said += " Before the first step the gradient of the last layer has a norm of "
    said += " and ".join(f"{slopes[placement]} ({placement})" for placement in PLACEMENTS) + "."
    return Verdict(shows, said)


def draw(figure: Figure, results: Sequence[Measured]) -> None:
    """The loss against depth, and the gradients of the deepest model by layer."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    depths = results[0]["depths"]
    for nth, (name, (_, warmup)) in enumerate(SETTINGS.items()):
        of_seeds = [[ends([result], name, at)[0] for at in range(len(depths))] for result in results]
        lines = {"linestyle": "--"} if warmup else {}  # or one that ends as low would hide the other
        curve(left, depths, of_seeds, name, nth, **lines)
    left.axhline(GUESSING, color="#999999", linewidth=0.8, linestyle=":", label="guessing")
    left.set_xticks(depths)
    left.set_xlabel("layers")
    left.set_ylabel("loss at the end, nats per label")
    left.legend()
    for nth, placement in zip((1, 3), PLACEMENTS, strict=True):
        of_seeds = [result["gradients"][placement] for result in results]
        curve(right, range(1, len(of_seeds[0]) + 1), of_seeds, placement, nth)
    right.set_xticks(depths)
    right.set_ylim(bottom=0)
    right.legend()
    right.set_xlabel(f"layer of {depths[-1]}")
    right.set_ylabel("norm of the gradient at the start")


EXPERIMENT = Experiment(
    name="warmup",
    question="Why a warm-up, and norms before the sub-layers?",
    claim="With norms after the sub-layers a deep model needs a warm-up; with norms before them it does without.",
    source="Xiong et al. 2020, §3",
    setting=f"{', '.join(map(str, DEPTHS))} layers of width {WIDTH} are to name the tokens {BACK[0]} and {BACK[1]} "
    f"places back, in {STEPS} steps of {ROWS} rows of {LENGTH} at a rate of up to {PEAK:g}, reached in {WARMUP} steps "
    "or at once; gradients are not clipped.",
    minutes=12,
    measure=measure,
    judge=judge,
    draw=draw,
)
