"""Token by token through a cache against one pass: where the two part, and whether positions are to blame.

Shapes: B batch, T positions, S keys, H heads, K head_dim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from pellucid.analysis.compare import ULPS, Diff, assembled, compared
from pellucid.analysis.recordings import (
    Real,
    Recording,
    as_it_is,
    cast,
    distance,
    evaluating,
    exactly,
    jittered,
    paired,
    precision,
    record,
)
from pellucid.analysis.repair import Cause
from pellucid.errors import UserError
from pellucid.inference.decode import Prompt, prefill, step
from pellucid.models.decoder import Decoder
from pellucid.models.encoder_decoder import EncoderDecoder
from pellucid.trace import Tape, trace

KEYS = ("mask", "scores", "weights")  # tensors whose last axis is one of keys
KEPT = ("k", "v")


def diff_cached(
    model: nn.Module,
    tokens: Int[Tensor, "B T"],
    *,
    source: Tensor | None = None,
    source_keep: Bool[Tensor, "B S"] | None = None,
    prompt: int = 1,
) -> Diff:
    """Compares one pass (A) with the same tokens fed one at a time (B).

    Args:
        tokens: (B, T), all real.
        source: what an encoder–decoder reads.
        prompt: how many tokens are read at once before the first step.

    Raises:
        UserError: for a model that does not write, or a prompt that leaves no step.
    """
    if not isinstance(model, Decoder | EncoderDecoder):
        raise UserError("diff", f"{type(model).__name__} writes nothing and has no cache", "a decoder")
    if isinstance(model, EncoderDecoder) and source is None:
        raise UserError("diff", "an encoder–decoder without a source", "source, what it is to read")
    if not 0 < prompt < tokens.size(1):
        raise UserError("diff", f"a prompt of {prompt} of {tokens.size(1)} tokens", f"1 to {tokens.size(1) - 1}")
    inputs: Any = tokens if source is None else {"source": source, "target": tokens, "source_keep": source_keep}
    exact = exactly(model)
    assert isinstance(exact, Decoder | EncoderDecoder)  # a copy
    given, reads, keep = (cast(x, torch.float64, "cpu") for x in (inputs, source, source_keep))
    sides = record(exact, given), _stepped(exact, tokens.cpu(), reads, keep, prompt)
    noise = jittered(exact, given)
    device = next(model.parameters()).device
    with evaluating(model):
        text, read, kept = (cast(x, precision(model), device) for x in (tokens, source, source_keep))
        stepped = _stepped(model, text, read, kept, prompt)
    plain = as_it_is(model, inputs), stepped
    allowed, real = ULPS * torch.finfo(precision(model)).eps, Real.of(inputs)
    profile = compared(sides, plain, noise, allowed, real, _plainly)
    first = next((parting for parting in profile if parting.parts), None)
    why = () if first is None else _causes(exact, tokens.cpu(), reads, keep, prompt, sides[1], first.name)
    return assembled(profile, sides, plain, why, (), _plainly, real, None, inputs)


def _plainly(name: str, tensor: Tensor) -> Tensor:
    return tensor


def _stepped(
    model: Decoder | EncoderDecoder, tokens: Tensor, source: Tensor | None, source_keep: Tensor | None, prompt: int
) -> Recording:
    """The pass in steps, its tensors put together as one pass has them."""
    length = tokens.size(1)
    with torch.no_grad(), trace(model) as tape:
        try:
            given = Prompt(tokens[:, :prompt], source=source, source_keep=source_keep)
            _, state = prefill(model, given, length - prompt + 1)
            for i in range(prompt, length):
                step(state, tokens[:, i])
        finally:
            model.mark_step(None)
    return Recording(_whole(tape, length), tape)


def _whole(tape: Tape, length: int) -> dict[str, Tensor]:
    steps: dict[str, list[Tensor]] = {}
    found: dict[str, Tensor] = {}
    for name, tensor in tape.tensors.items():
        short, _, number = name.partition("@")
        if number:
            steps.setdefault(short, []).append(tensor)
        else:
            found[short] = tensor
    for name, parts in steps.items():
        joined = _joined(name, parts, length)
        if joined is not None:
            found[name] = joined
    return found


def _joined(name: str, parts: list[Tensor], length: int) -> Tensor | None:
    """One tensor of all steps; ``None`` where a ring has overwritten what one pass still has."""
    last = name.rpartition(".")[2]
    if "self_attention" not in name or last not in (*KEYS, *KEPT):
        return parts[0] if "cross_attention" in name and last in KEPT else torch.cat(parts, dim=-2)
    if last in KEPT:
        return parts[-1][:, :, :length] if parts[-1].size(2) >= length else None
    if any(part.size(-1) > length or part.size(-1) < min(i + 1, length) for i, part in enumerate(parts)):
        return None
    nothing: Any = {"mask": False, "scores": -torch.inf, "weights": 0.0}[last]
    shape = parts[0].shape[:-2]
    rows = [part.new_full((*shape, part.size(-2), length), nothing) for part in parts]
    for row, part in zip(rows, parts, strict=True):
        row[..., : part.size(-1)] = part
    return torch.cat(rows, dim=-2)


# ---- causes ------------------------------------------------------------------------------------


def _causes(
    model: nn.Module, tokens: Tensor, source: Tensor | None, keep: Tensor | None, prompt: int, steps: Recording, at: str
) -> tuple[Cause, ...]:
    """Whether the steps are what one pass computes whose positions go on otherwise after the prompt."""
    assert isinstance(model, Decoder | EncoderDecoder)  # the caller has checked it
    count = torch.arange(tokens.size(1)).expand(tokens.shape)
    later = count >= prompt
    guesses: dict[str, Tensor] = {
        "one position too low": torch.where(later, count - 1, count),
        "one position too high": torch.where(later, count + 1, count),
        "at position 0 each": torch.where(later, 0, count),
        "as if the prompt were not there": torch.where(later, count - prompt, count),
    }
    for what, positions in guesses.items():
        moved = _one_pass(model, tokens, source, keep, positions)
        pair = paired(moved[at], steps.tensors[at]) if at in moved else None
        if pair is not None and (left := distance(*pair)) <= 1e-9:
            remedy = "giving one pass the same positions"
            return (Cause(at, "positions of the steps after the prompt", f"stand {what}", remedy, left),)
    return ()


def _one_pass(
    model: Decoder | EncoderDecoder, tokens: Tensor, source: Tensor | None, keep: Tensor | None, positions: Tensor
) -> dict[str, Tensor]:
    def run() -> Tensor:
        if isinstance(model, EncoderDecoder):
            assert source is not None  # the caller has checked it
            return model.decode(tokens, model.encode(source, keep=keep), positions=positions)
        return model(tokens, positions=positions)

    return _traced(model, run)


def _traced(model: nn.Module, run: Callable[[], Tensor]) -> dict[str, Tensor]:
    with torch.no_grad(), trace(model) as tape:
        try:
            run()
        except (IndexError, RuntimeError):
            return {}
    return tape.tensors
