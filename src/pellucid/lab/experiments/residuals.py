"""Why residual connections, and why norms: the same decoder without the ones, without the others, without both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.config.model import XavierInit
from pellucid.config.parts import Rotary
from pellucid.lab.experiment import Experiment, Measured, Say, Verdict
from pellucid.lab.figures import curve
from pellucid.lab.fitting import fit, right
from pellucid.lab.makers import decoder
from pellucid.lab.reading import spread
from pellucid.lab.tasks import from_places
from pellucid.models.decoder import Decoder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPTHS = (1, 2, 4, 8)
VOCAB, BACK, LENGTH, WIDTH, ROWS, JUDGED = 8, (1, 2), 16, 32, 16, 128
STEPS, PEAK = 400, 2e-3
SETTINGS = {"both": (True, True), "no residuals": (False, True), "no norms": (True, False), "neither": (False, False)}
LEARNED, LOST = 0.9, 0.5


class Alone(nn.Module):
    """Stands where a residual connection stood: what the sub-layer says is all that goes on."""

    def __init__(self, before: nn.Module) -> None:
        super().__init__()
        self.before = before

    def forward(self, x: Float[Tensor, "B T D"], sublayer: Callable[[Tensor], Tensor]) -> Float[Tensor, "B T D"]:
        return sublayer(self.before(x))


def make(depth: int, residuals: bool, norms: bool) -> Decoder:
    """A decoder with norms before its sub-layers, and what it shall not have taken out."""
    model = decoder(VOCAB ** len(BACK), width=WIDTH, layers=depth, positions=Rotary(), init=XavierInit())
    for block in model.blocks:
        for name in ("self_attention_residual", "feed_forward_residual"):
            connection = getattr(block, name)
            if not norms:
                connection.before = nn.Identity()
            if not residuals:
                setattr(block, name, Alone(connection.before))
    if not norms:
        model.final_norm = nn.Identity()
    return model


@torch.no_grad()
def apart(model: Decoder, tokens: Int[Tensor, "B T"]) -> float:
    """How far the positions are apart after the last block: the share of their length that is not their common mean.

    Dong et al. show that without residual connections it goes to nothing: every position says the same.
    """
    seen: list[Tensor] = []
    hook = model.blocks[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(tokens)
    hook.remove()
    states = seen[0]
    return float((states - states.mean(1, keepdim=True)).norm() / states.norm())


def measure(seed: int, say: Say) -> Measured:
    """The share of right answers after training, and how far positions are apart before it, by setting and depth."""
    task = partial(from_places, length=LENGTH, vocab=VOCAB, back=BACK)
    found: dict[str, list[float]] = {}
    distances: dict[str, list[float]] = {}
    for name, (residuals, norms) in SETTINGS.items():
        found[name], distances[name] = [], []
        for depth in DEPTHS:
            model = make(depth, residuals, norms)
            start = apart(model, torch.randint(VOCAB, (JUDGED, LENGTH)))
            for _ in fit(model, lambda: task(ROWS), STEPS, peak=PEAK):
                pass
            found[name].append(right(model, task(JUDGED)))
            distances[name].append(start if math.isfinite(start) else 0.0)  # 0 of 0, where nothing is left
            say(f"{name}, {depth} layers: {found[name][-1]:.1%} right")
    return {"depths": list(DEPTHS), "right": found, "apart": distances}


def judge(results: Sequence[Measured]) -> Verdict:
    """Whether the shallowest model learns without residuals and the deepest does not, with every seed."""
    first, *_, deepest = results[0]["depths"]
    share = {name: [[r["right"][name][at] for r in results] for at in (0, -1)] for name in SETTINGS}
    whole, bare, unnormed, neither = SETTINGS

    def percent(name: str, at: int) -> str:
        return spread([100 * value for value in share[name][at]], ".1f")

    shows = min(share[whole][-1]) >= LEARNED and min(share[bare][0]) >= LEARNED and max(share[bare][-1]) < LOST
    said = (
        f"With {deepest} layers the whole decoder is right in {percent(whole, -1)} %, without residual connections in "
    )
    said += (
        f"{percent(bare, -1)} % (with {first} in {percent(bare, 0)} %), without norms in {percent(unnormed, -1)} %, "
    )
    said += f"with neither in {percent(neither, -1)} %; guessing is {100 / VOCAB ** len(BACK):.1f} %. "
    distance = {name: [100 * r["apart"][name][-1] for r in results] for name in (whole, bare)}
    said += (
        f"Before training {spread(distance[whole], '.0f')} % of the length of the states after the last layer is not "
    )
    said += f"shared by all positions, without residual connections {spread(distance[bare], '.0f')} %."
    if not shows:
        said += " That depth alone undoes a decoder without them does not show with every seed."
    elif min(share[unnormed][-1]) >= LEARNED:
        said += " Norms are not needed at this depth."
    return Verdict(shows, said)


def draw(figure: Figure, results: Sequence[Measured]) -> None:
    """The share of right answers, and how far positions are apart at the start, both against depth."""
    left, aside = figure.subplots(1, 2)
    depths = results[0]["depths"]
    for axes, what in ((left, "right"), (aside, "apart")):
        for nth, (name, (_, norms)) in enumerate(SETTINGS.items()):
            lines = {} if norms else {"linestyle": "--"}  # or one at 100 % would hide the other
            curve(axes, depths, [[100 * value for value in r[what][name]] for r in results], name, nth, **lines)
        axes.set_xscale("log", base=2)
        axes.set_xticks(depths, [str(depth) for depth in depths])
        axes.set_xlabel("layers")
        axes.set_ylim(-3, 103)
    left.set_ylabel("right after training, %")
    aside.set_ylabel("states not shared by all positions at the start, %")
    left.legend(loc="lower left")


EXPERIMENT = Experiment(
    name="residuals",
    question="Why residual connections?",
    claim="Without residual connections a deep model does not train: what tells positions apart is lost on the way.",
    source="He et al. 2016, §3; Vaswani et al. 2017, §3.1; Dong et al. 2021",
    setting=f"{', '.join(map(str, DEPTHS))} layers of width {WIDTH}, norms before the sub-layers, are to name the "
    f"tokens {BACK[0]} and {BACK[1]} places back, in {STEPS} steps of {ROWS} rows of {LENGTH} at a rate of {PEAK:g}; "
    "the same without residual connections, without norms, and without both.",
    minutes=9,
    measure=measure,
    judge=judge,
    draw=draw,
)
