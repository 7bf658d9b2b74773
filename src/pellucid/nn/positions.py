"""How a model knows where a token stands: added to the embedding, turned into q and k, or added to the scores.

Shapes: B batch, T tokens, D d_model, H heads, K head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pellucid.errors import UserError


def frequencies(width: int, base: float) -> Float[Tensor, " N"]:
    """base^(-2i/W), the frequency of each pair of coordinates, in double precision."""
    return base ** -(torch.arange(0, width, 2, dtype=torch.float64, device=real_device()) / width)


def rotary_frequencies(width: int, base: float) -> Float[Tensor, " N"]:
    """The same in single precision throughout, as the models that turn by them were trained: far out the last digit
    of a frequency is seen."""
    exponents = torch.arange(0, width, 2, device=real_device()).float() / width
    return 1.0 / base**exponents


def real_device() -> torch.device:
    """Where what is computed and not learned belongs: here, where weights are still to be filled in (``meta``)."""
    device = torch.get_default_device()
    return torch.device("cpu") if device.type == "meta" else device


class Computed(nn.Module):
    """A module whose table is computed and not learned: it keeps its precision whatever weights are rounded to."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Computed:
        kept = dict(self._buffers)
        self._buffers.update(
            {name: torch.empty(0, device=table.device) for name, table in kept.items() if table is not None}
        )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, table in kept.items():
            if table is None:
                continue
            device = self._buffers[name].device  # type: ignore[union-attr]
            single = device.type == "mps"  # which has no double precision
            kind = torch.float32 if single else table.dtype
            self._buffers[name] = table if device.type == "meta" else table.to(device, kind)
        return self


# ---- added to the embedding --------------------------------------------------------------------


class AddedPositions(nn.Module):
    """Adds a vector for the position to the embedding of a token."""

    def code(self, positions: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """The vectors that are added."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "B T D"], positions: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        return x + self.code(positions).type_as(x)


class NoAddedPositions(nn.Module):
    """Adds nothing to the embedding."""

    def forward(self, x: Float[Tensor, "B T D"], positions: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        return x


class SinusoidalPositions(Computed, AddedPositions):
    """PE(pos, 2i) = sin(pos / base^(2i/D)), PE(pos, 2i+1) = cos of the same (Vaswani et al. 2017, §3.5).

    Not ``interleaved``, the D/2 sines come first and the cosines after them. The angles are taken in double precision:
    in single, those of position 500 are off by 3e-5.
    """

    frequency: Tensor

    def __init__(self, d_model: int, base: float, interleaved: bool) -> None:
        super().__init__()
        self.interleaved = interleaved
        self.register_buffer("frequency", frequencies(d_model, base), persistent=False)

    def code(self, positions: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        angle = positions[..., None] * self.frequency
        parts = (angle.sin(), angle.cos())
        return torch.stack(parts, dim=-1).flatten(-2) if self.interleaved else torch.cat(parts, dim=-1)


class LearnedPositions(AddedPositions):
    """A trained vector per position; the table starts ``offset`` rows later."""

    def __init__(self, d_model: int, max_length: int, offset: int) -> None:
        super().__init__()
        self.offset = offset
        self.table = nn.Embedding(max_length + offset, d_model)

    def code(self, positions: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        return self.table(positions + self.offset)


# ---- turned into queries and keys --------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Rotation:
    """Turns the first coordinates of each head by the angles of one pass (Su et al. 2021, eq. 15)."""

    cos: Float[Tensor, "B 1 T R"]
    sin: Float[Tensor, "B 1 T R"]
    interleaved: bool

    def __call__(self, x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T K"]:
        """Turns queries or keys."""
        turned, still = x[..., : self.cos.size(-1)], x[..., self.cos.size(-1) :]
        turned = (turned.float() * self.cos + self.quarter_turn(turned.float()) * self.sin).type_as(x)
        return torch.cat([turned, still], dim=-1) if still.size(-1) else turned

    def quarter_turn(self, x: Tensor) -> Tensor:
        """(a, b) -> (-b, a) for every pair."""
        if self.interleaved:
            return torch.stack([-x[..., 1::2], x[..., 0::2]], dim=-1).flatten(-2)
        a, b = x.chunk(2, dim=-1)
        return torch.cat([-b, a], dim=-1)


def unrotated(x: Float[Tensor, "B H T K"]) -> Float[Tensor, "B H T K"]:
    """Leaves queries and keys as they are."""
    return x


class NoRotation(nn.Module):
    """No angles."""

    def forward(self, positions: Int[Tensor, "B T"]) -> object:
        return unrotated


def slow_waves(
    frequency: Float[Tensor, " N"], factor: float, low: float, high: float, original_length: int
) -> Float[Tensor, " N"]:
    """Low frequencies divided by ``factor``, high ones kept: see :class:`pellucid.config.parts.Llama3`."""
    turns = original_length / (2 * math.pi / frequency)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * frequency / factor + kept * frequency


class RotaryPositions(Computed):
    """The angles of a pass: position · frequency for each pair of the R turned coordinates.

    In single precision, as the models that have them were trained.
    """

    frequency: Tensor

    def __init__(self, frequency: Float[Tensor, " N"], interleaved: bool) -> None:
        super().__init__()
        self.interleaved = interleaved
        self.register_buffer("frequency", frequency.float(), persistent=False)

    def forward(self, positions: Int[Tensor, "B T"]) -> Rotation:
        angle = (positions[..., None].float() * self.frequency)[:, None]  # (B, 1, T, R/2)
        angle = angle.repeat_interleave(2, dim=-1) if self.interleaved else torch.cat([angle, angle], dim=-1)
        return Rotation(angle.cos(), angle.sin(), self.interleaved)


# ---- added to the scores -----------------------------------------------------------------------


class ALiBiBias(Computed):
    """-slope · distance for each head, the slopes a geometric series (Press et al. 2022).

    The paper's causal models see only the past; where the future is seen too, its distance counts the same.
    """

    slopes: Tensor

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.register_buffer("slopes", torch.tensor(_alibi_slopes(num_heads), device=real_device()), persistent=False)

    def forward(self, query: Int[Tensor, "B T"], key: Int[Tensor, "B S"]) -> Float[Tensor, "B H T S"]:
        distance = (query[:, :, None] - key[:, None, :]).abs()
        return -self.slopes[:, None, None] * distance[:, None]


def _alibi_slopes(num_heads: int) -> list[float]:
    """2^(-8/n), 2^(-16/n), ... for n a power of two; other n take every other slope of the next power for the rest."""
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    finer = [2.0 ** (-8 * (i + 1) / (2 * power)) for i in range(2 * power)]
    return slopes + finer[0::2][: num_heads - power]


class RelativePositionBias(nn.Module):
    """A trained number per head and bucket of distances: exact when near, logarithmic when far (Raffel et al. 2020).

    Bidirectional stacks spend half of the buckets on the future, causal ones all of them on the past.
    """

    def __init__(self, num_heads: int, buckets: int, max_distance: int, causal: bool) -> None:
        super().__init__()
        self.buckets, self.max_distance, self.causal = buckets, max_distance, causal
        self.table = nn.Embedding(buckets, num_heads)

    def forward(self, query: Int[Tensor, "B T"], key: Int[Tensor, "B S"]) -> Float[Tensor, "B H T S"]:
        ahead = key[:, None, :] - query[:, :, None]
        bias: Tensor = self.table(self.bucket(ahead))
        return bias.permute(0, 3, 1, 2)

    def bucket(self, ahead: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The bucket of a distance, counted from the query to the key."""
        buckets = self.buckets if self.causal else self.buckets // 2
        distance = (-ahead).clamp(min=0) if self.causal else ahead.abs()
        exact = buckets // 2
        growth = (distance.float().clamp(min=1) / exact).log() / math.log(self.max_distance / exact)
        far = (exact + (growth * (buckets - exact)).long()).clamp(max=buckets - 1)
        bucket = torch.where(distance < exact, distance, far)
        return bucket if self.causal else bucket + (ahead > 0) * buckets


def check_length(length: int, max_length: int | None, where: str) -> None:
    """Refuses a sequence longer than the positions a model has learned.

    Raises:
        UserError: with the length found and the longest one possible.
    """
    if max_length is not None and length > max_length:
        raise UserError(
            where,
            f"a sequence of {length} tokens",
            f"at most {max_length}, as many as the model has learned positions",
            "shorten the input, or train with a larger max_length or with rotary positions",
        )
