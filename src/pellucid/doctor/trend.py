"""What the records of a training say is wrong: figures that stay bad, not one bad figure.

Attention sinks and heads that copy are sharp by nature, new weights move a lot, and one batch may be odd. So a warning
takes several records in a row and many heads or layers; only what surely harms is said at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import log
from statistics import median

from pellucid.doctor import tolerances
from pellucid.doctor.finding import Finding, Status
from pellucid.doctor.record import Forward, Record, Update

History = Sequence[Record]
ADAPTIVE = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known of a training besides its course.

    Attributes:
        vocab_size: V, of which the loss asks one; ``None``: the loss is not that of a language model, or not said.
        floor: nats below which the loss cannot fall, on data that has not been seen.
        layers: how many the model has.
        first_rate, peak_rate: the learning rate of the first step, if that was seen, and the largest so far, of layers
            and not of tables, where the optimiser is of Adam's kind.
    """

    vocab_size: int | None = None
    floor: float | None = None
    layers: int = 0
    first_rate: float | None = None
    peak_rate: float | None = None


def judged(history: History, setting: Setting) -> tuple[Finding, ...]:
    """What is wrong after the last record, the worst first."""
    if broken := list(_finite(history)):  # of which all else is a consequence
        return tuple(broken)
    found = [
        *_rate(history, setting),
        *_loss(history, setting),
        *_attention(history),
        *_units(history),
        *_gradients(history),
        *_updates(history),
        *_residual(history),
    ]
    return tuple(sorted(found, key=lambda finding: finding.status is not Status.FAIL))


def _lasting(history: History) -> History:
    """The records over which something must have held to be said; none while there are too few."""
    last = history[-1].step
    recent = [record for record in history if record.step > last - tolerances.LASTING_STEPS]
    recent = list(history[-max(len(recent) + 1, tolerances.LASTING_RECORDS) :])
    long = len(recent) >= tolerances.LASTING_RECORDS and last - recent[0].step >= tolerances.LASTING_STEPS
    return recent if long else []


def _always(records: History, holds: Callable[[Record], bool]) -> bool:
    return bool(records) and all(map(holds, records))


def _warned(check: str, seen: str, **more: object) -> Finding:
    return Finding(check=check, status=Status.WARN, done="watched the training", seen=seen, **more)  # type: ignore[arg-type]


def _failed(check: str, seen: str, **more: object) -> Finding:
    return Finding(check=check, status=Status.FAIL, done="watched the training", seen=seen, **more)  # type: ignore[arg-type]


# ---- said at once --------------------------------------------------------------------------------


def _finite(history: History) -> Iterator[Finding]:
    bad = history[-1].nonfinite
    if not bad:
        return
    seen = f"{bad[0]} is not finite" + (f", and {len(bad) - 1} more are not" if len(bad) > 1 else "")
    more = {
        "where": bad[0].rpartition(" ")[2],
        "cause": "a rate that is too high, an overflow in half precision, a softmax of -inf alone, a root or logarithm",
        "fix": "go back to the last good checkpoint; lower or warm up the rate, clip gradients, or find the operation "
        "with torch.autograd.set_detect_anomaly(True)",
        "evidence": {"nonfinite": list(bad[:20])},
    }
    # A layer alone may be so where only padding is, which the loss does not ask.
    harmless = all(name.startswith("output of ") for name in bad)
    yield _warned("health.finite", seen, **more) if harmless else _failed("health.finite", seen, **more)


def _rate(history: History, setting: Setting) -> Iterator[Finding]:
    first, peak = setting.first_rate, setting.peak_rate
    if peak is None:
        return
    if peak > tolerances.LARGEST_RATE:
        yield _failed(
            "schedule.warmup",
            f"the learning rate reaches {peak:.2g}, with Adam",
            cause="a factor that belongs to another schedule, or a rate meant for SGD",
            fix="3e-4 to 1e-3 for small models, less for large",
            references=("OpenNMT/OpenNMT-py#869",),
            evidence={"first": first, "peak": peak},
        )
    if first is None:  # whether there was a warm-up is not known of a training that goes on
        return
    begins = history[0].forward
    known = history[-1].step - history[0].step >= tolerances.WARMUP_STEPS
    if begins is not None and begins.normed and known and setting.layers >= tolerances.DEEP and first >= 0.5 * peak:
        yield _warned(
            "schedule.warmup",
            f"norms stand after the sum in {setting.layers} layers, and the rate began at {first:.2g} of {peak:.2g}",
            cause="post-norm models have large gradients at the start, near the output (Xiong et al. 2020)",
            fix="raise the rate over the first thousands of steps, or put norms before the sub-layers",
            references=("LiyuanLucasLiu/Transformer-Clinic#16", "arXiv:2002.04745"),
            evidence={"first": first, "peak": peak, "layers": setting.layers},
        )


def _loss(history: History, setting: Setting) -> Iterator[Finding]:
    last = history[-1]
    if last.loss is None:
        return
    margin = max(tolerances.FLOOR_MARGIN, 4 * (last.error or 0.0))
    if setting.floor is not None and last.losses >= 10 and last.loss < setting.floor - margin:
        yield _failed(
            "loss.floor",
            f"the loss is {last.loss:.3f}, below the floor of {setting.floor:.3f} nats",
            cause="the model sees what it is asked for: the future leaks, or labels are not shifted; or the data "
            "repeat and are known by heart",
            fix="pl.doctor(model) asks for the leak; look at causal.prefix_invariance and loss.alignment",
            evidence={"loss": last.loss, "floor": setting.floor, "error": last.error},
        )
    records = _lasting(history)
    losses = [record.loss for record in history if record.loss is not None]
    guess = None if setting.vocab_size is None else log(setting.vocab_size)
    if guess is not None and history[0].loss is not None and len(history) == 1 and history[0].loss > 2 * guess:
        yield _warned(
            "loss.init",
            f"the loss begins at {history[0].loss:.2f}, and guessing among {setting.vocab_size} costs {guess:.2f}",
            cause="the output projection is drawn too large, or the loss is a sum and no mean",
            fix="draw it with a deviation of 0.02, or of 1/√d_model",
            references=("huggingface/transformers#26441",),
            evidence={"loss": history[0].loss, "uniform": guess},
        )
    late = last.step - history[0].step >= tolerances.LEARNED_BY
    if guess is not None and late and _always(records, lambda r: r.loss is not None and r.loss > guess - 0.05):
        yield _warned(
            "loss.floor",
            f"after {last.step:,} steps the loss is {last.loss:.2f}, no better than guessing of {setting.vocab_size}",
            cause="nothing is learned: labels that do not belong to the inputs, a rate of nearly zero, parameters that "
            "the optimiser does not have",
            fix="pl.doctor(model, Spec(optimizer=…)) asks for both",
            evidence={"loss": last.loss, "uniform": guess},
        )
    best = min(losses)
    if best > 0 and _always(records, lambda r: r.loss is not None and r.loss > tolerances.DIVERGED * best):
        yield _warned(
            "loss.diverges",
            f"the loss is {last.loss:.3g}, and was {best:.3g} before",
            cause="the learning rate is too high for where the training is now",
            fix="lower the rate, warm it up longer, clip gradients",
            evidence={"loss": last.loss, "best": best},
        )


# ---- said when it lasts --------------------------------------------------------------------------


def _attention(history: History) -> Iterator[Finding]:
    records = _lasting(history)
    forwards = [record.forward for record in records if record.forward is not None and record.forward.entropies]
    if not forwards or len(forwards) < len(records):
        return
    last = forwards[-1]
    middle = [median(forward.entropies) for forward in forwards]
    frozen = [_frozen(forward) for forward in forwards]
    evidence = {"median": middle, "frozen": frozen, "largest": max(max(heads) for heads in last.scores.values())}
    if min(frozen) >= tolerances.MANY_HEADS and middle[-1] <= middle[0] + 0.01:
        yield _warned(
            "health.attention",
            f"{frozen[-1]:.0%} of the heads look at one key alone, and scores reach {evidence['largest']:.0f}: the "
            "softmax is saturated, and passes hardly any gradient",
            cause="scores are too large: 1/√head_dim is missing, or queries and keys have grown under a high rate",
            fix="look at attn.scale in pl.doctor(model); norm queries and keys, lower the rate",
            references=("huggingface/transformers#45676", "arXiv:2303.06296"),
            evidence=evidence,
        )
    late = history[-1].step - history[0].step >= tolerances.LEARNED_BY
    if late and all(forward.entropies[0] > tolerances.UNIFORM for forward in forwards):
        yield _warned(
            "health.attention",
            f"after {history[-1].step:,} steps every head still spreads over all keys",
            cause="attention learns nothing: scores are too small, or queries and keys have no gradient",
            fix="look at attn.scale and params.coverage in pl.doctor(model)",
            evidence=evidence,
        )


def _frozen(forward: Forward) -> float:
    """The share of heads that are saturated."""
    pairs = (tolerances.SATURATED, tolerances.SHARP)
    heads = [
        any(entropy < sharp and score > large for sharp, large in pairs)
        for name, entropies in forward.entropy.items()
        for entropy, score in zip(entropies, forward.scores[name], strict=True)
        if entropy == entropy
    ]
    return sum(heads) / len(heads)


def _units(history: History) -> Iterator[Finding]:
    records = _lasting(history)
    forwards = [r.forward for r in records if r.forward is not None and r.forward.judges_units]
    if not forwards or len(forwards) < len(records):
        return
    least = {
        name: min(forward.dead.get(name, 0.0) for forward in forwards) for name in forwards[-1].dead
    }  # of each layer, what has lasted
    worst = max(least, key=lambda name: least[name], default="")
    if not worst or least[worst] <= tolerances.DEAD_WARN:
        return
    share, evidence = forwards[-1].dead[worst], {"dead": forwards[-1].dead, "tokens": forwards[-1].tokens}
    seen = f"in {worst}, {share:.0%} of the units have not fired in {forwards[-1].tokens:,} tokens"
    more = {
        "where": worst,
        "cause": "a rate that was too high pushed their biases below everything they read",
        "fix": "lower the rate, warm it up, or take GELU; units that never fire do not learn again",
        "references": ("OpenNMT/OpenNMT-py#502",),
        "evidence": evidence,
    }
    if least[worst] > tolerances.DEAD_FAIL:
        yield _failed("health.ffn", seen, **more)
    elif share >= forwards[0].dead[worst]:  # they are not coming back
        yield _warned("health.ffn", seen, **more)


def _updates_of(records: History) -> list[Update]:
    found = [record.update for record in records if record.update is not None]
    return found if len(found) == len(records) else []


def _gradients(history: History) -> Iterator[Finding]:
    records = _lasting(history)
    updates = _updates_of(records)
    if updates and all((update.spread or 0.0) > tolerances.GRADIENT_RATIO for update in updates):
        yield _warned(
            "health.gradients",
            f"the gradient of one layer is {updates[-1].spread:.3g} times that of another",
            cause="gradients vanish or explode with depth: norms after the sum without warm-up, no residual, weights "
            "drawn too small or too large",
            fix="norms before the sub-layers, a warm-up, outputs scaled by 1/√(2·layers)",
            evidence={"gradients": updates[-1].gradients},
        )
    earlier = [r.update.norm for r in history[: len(history) - len(records)] if r.update is not None and r.update.norm]
    now = [update.norm or 0.0 for update in updates]
    if len(earlier) >= 2 and now and min(now) > tolerances.EXPLODED * median(earlier):
        yield _warned(
            "health.gradients",
            f"the norm of the gradient is {now[-1]:.3g}, and was {median(earlier):.3g} before",
            cause="gradients explode: the learning rate is too high, or scores and residual stream have grown",
            fix="clip gradients, lower the rate; look at entropy and residual growth of the same steps",
            evidence={"norms": now, "before": median(earlier)},
        )


def _updates(history: History) -> Iterator[Finding]:
    records = _lasting(history)
    ratios = [update.ratios for update in _updates_of(records)]
    if not ratios or not all(ratios) or any((record.rate or 0.0) <= 0 for record in records):
        return
    middle = [median(each.values()) for each in ratios]
    still = [name for name in ratios[-1] if all(each.get(name, 1.0) == 0 for each in ratios)]
    if min(middle) > tolerances.LARGE_UPDATE:
        yield _warned(
            "health.updates",
            f"one step changes the weights by {middle[-1]:.0%} of their size",
            cause="the learning rate is too high",
            fix="0.01 % to 1 % is usual; lower the rate",
            evidence={"ratios": ratios[-1]},
        )
    elif len(still) == len(ratios[-1]):
        yield _warned(
            "health.updates",
            "no parameter moves",
            cause="the optimiser has other parameters than the model, gradients are zero, or updates are lost to the "
            "rounding of half precision",
            fix="make the optimiser of model.parameters(), after the model is complete; keep weights in float32",
        )
    elif still:
        yield _warned(
            "health.updates",
            f"{still[0]}" + (f" and {len(still) - 1} more layers" if len(still) > 1 else "") + " does not move",
            where=still[0],
            cause="its parameters are not in the optimiser, or get no gradient",
            fix="params.coverage in pl.doctor(model, Spec(optimizer=…)) names them",
            evidence={"still": still},
        )


def _residual(history: History) -> Iterator[Finding]:
    records = _lasting(history)
    forwards = [record.forward for record in records if record.forward is not None and record.forward.growth]
    if not forwards or len(forwards) < len(records):
        return
    for stack, (step, total) in forwards[-1].growth.items():
        grown = [forward.growth.get(stack, (0.0, 0.0)) for forward in forwards]
        if all(a > tolerances.RESIDUAL_GROWTH and b > tolerances.RESIDUAL_TOTAL for a, b in grown):
            yield _warned(
                "health.residual",
                f"the residual stream grows {total:.3g} times from the first to the last of {stack or 'the layers'}, "
                f"by up to {step:.3g} in one",
                where=stack,
                cause="outputs of the sub-layers are too large for this depth, or a norm is missing",
                fix="scale the last projection of each sub-layer by 1/√(2·layers)",
                evidence={"rms": forwards[-1].residual},
            )
            return
