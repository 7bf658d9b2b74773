"""Models that are told the wrong order of tokens, or none."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.doctor.spec import Spec
from zoo.base import (
    BERT,
    GPT,
    HEADS,
    LONGEST,
    WIDTH,
    Attention,
    Rotary,
    angles,
    bert_spec,
    gpt_spec,
    rotated,
    sinusoids,
)
from zoo.entry import Bug


class NeverAdded(GPT):
    """Made, and not added."""

    def embedded(self, ids: Tensor, start: int = 0) -> Tensor:
        return self.tokens(ids)


class AlongBatch(GPT):
    """pe[: x.size(0)] with batches first."""

    def embedded(self, ids: Tensor, start: int = 0) -> Tensor:
        return self.tokens(ids) + self.positions(torch.arange(ids.size(0)))[:, None]


class OneForAll(GPT):
    """pe[:, T] in place of pe[:, :T]: the position of the length, for every token."""

    def embedded(self, ids: Tensor, start: int = 0) -> Tensor:
        return self.tokens(ids) + self.positions(torch.tensor(ids.size(1)))


class AlwaysZero(GPT):
    """Ids of positions that were never filled in."""

    def embedded(self, ids: Tensor, start: int = 0) -> Tensor:
        return self.tokens(ids) + self.positions(torch.zeros_like(ids))


class FromTheEnd(GPT):
    """Counted from the end: a token's position depends on the length."""

    def embedded(self, ids: Tensor, start: int = 0) -> Tensor:
        return self.tokens(ids) + self.positions(torch.arange(ids.size(1)).flip(0))


class OverLength(GPT):
    """Positions as shares of the length."""

    def embedded(self, ids: Tensor, start: int = 0) -> Tensor:
        share = torch.arange(ids.size(1)) / ids.size(1)
        return self.tokens(ids) + self.positions.weight[0] * share[:, None]


class Clamped(GPT):
    """All beyond the eighth are one."""

    def embedded(self, ids: Tensor, start: int = 0) -> Tensor:
        return self.tokens(ids) + self.positions(torch.arange(ids.size(1)).clamp(max=7))


class Wrapped(GPT):
    """Counted anew every eight tokens."""

    def embedded(self, ids: Tensor, start: int = 0) -> Tensor:
        return self.tokens(ids) + self.positions(torch.arange(ids.size(1)) % 8)


class Sinusoidal(GPT):
    """A fixed table, added to tokens of its size."""

    def __init__(self, *attention: Any, **more: Any) -> None:
        super().__init__(*attention, learned=False, **more)
        self.register_buffer("pe", self.table())

    def table(self) -> Tensor:
        return sinusoids()

    def embedded(self, ids: Tensor, start: int = 0) -> Tensor:
        return self.tokens(ids) * math.sqrt(WIDTH) + self.pe[start : start + ids.size(1)]


def of_angles(angle: Tensor) -> Tensor:
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


class TwiceTheExponent(Sinusoidal):
    """2i of an i that counts in twos already."""

    def table(self) -> Tensor:
        return of_angles(torch.arange(LONGEST)[:, None] * 10000.0 ** (-2 * torch.arange(0, WIDTH, 2) / WIDTH))


class WholeDivision(Sinusoidal):
    """2i // D is zero: all frequencies are one."""

    def table(self) -> Tensor:
        return of_angles(torch.arange(LONGEST)[:, None] * 10000.0 ** (-(torch.arange(0, WIDTH, 2) // WIDTH)))


class Precedence(Sinusoidal):
    """t / 10000 ** 2 * i / D, read from the left."""

    def table(self) -> Tensor:
        return of_angles(torch.arange(LONGEST)[:, None] / 10000.0**2 * torch.arange(0, WIDTH, 2) / WIDTH)


class HalfTheExponent(Sinusoidal):
    """i / D of an i that counts pairs."""

    def table(self) -> Tensor:
        return of_angles(torch.arange(LONGEST)[:, None] * 10000.0 ** (-torch.arange(WIDTH // 2) / WIDTH))


class OnTheWay(nn.Module):
    """Makes the table as it runs, with the frequencies of every channel its own."""

    def forward(self, ids: Tensor) -> Tensor:
        angle = torch.arange(ids.size(1))[:, None] / 10000.0 ** (torch.arange(WIDTH) / WIDTH)
        return torch.where(torch.arange(WIDTH) % 2 == 0, angle.sin(), angle.cos())


class Made(GPT):
    """A table of no memory."""

    def __init__(self) -> None:
        super().__init__(learned=False)
        self.places = OnTheWay()

    def embedded(self, ids: Tensor, start: int = 0) -> Tensor:
        return self.tokens(ids) + self.places(ids)


class OwnFrequencies(Sinusoidal):
    """Sine and cosine of a pair have different frequencies: i / D for every channel."""

    def table(self) -> Tensor:
        angle = torch.arange(LONGEST)[:, None] / 10000.0 ** (torch.arange(WIDTH) / WIDTH)
        table = torch.empty(LONGEST, WIDTH)
        table[:, 0::2], table[:, 1::2] = angle[:, 0::2].sin(), angle[:, 1::2].cos()
        return table


class SinesAlone(Sinusoidal):
    """The cosines were forgotten."""

    def table(self) -> Tensor:
        angle = angles(LONGEST, WIDTH)
        return torch.stack([angle.sin(), angle.sin()], -1).flatten(1)


class QueryAlone(Rotary):
    def placed(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Any:
        return rotated(q, angles(q.size(2), q.size(3), start)), k, v


class ValuesToo(Rotary):
    def placed(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Any:
        q, k, v = super().placed(q, k, v, start)
        return q, k, rotated(v, angles(v.size(2), v.size(3), start))


class ValuesForKeys(Rotary):
    """Queries and values are rotated, keys are not."""

    def placed(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Any:
        angle = angles(q.size(2), q.size(3), start)
        return rotated(q, angle), k, rotated(v, angle)


class HalvesAndPairs(Rotary):
    """Angles repeated for pairs, and the rotation of halves."""

    def placed(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Any:
        angle = angles(q.size(2), q.size(3), start).repeat_interleave(2, -1)

        def turned(x: Tensor) -> Tensor:
            first, second = x.chunk(2, -1)
            return x * angle.cos() + torch.cat([-second, first], -1) * angle.sin()

        return turned(q), turned(k), v


class PairsAndHalves(Rotary):
    """Angles repeated for halves, and the rotation of pairs."""

    def placed(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Any:
        angle = angles(q.size(2), q.size(3), start).repeat(1, 2)

        def turned(x: Tensor) -> Tensor:
            even, odd = x[..., 0::2], x[..., 1::2]
            return x * angle.cos() + torch.stack([-odd, even], -1).flatten(-2) * angle.sin()

        return turned(q), turned(k), v


class SignLost(Rotary):
    """rotate_half without its minus."""

    def placed(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Any:
        angle = angles(q.size(2), q.size(3), start).repeat(1, 2)

        def turned(x: Tensor) -> Tensor:
            return x * angle.cos() + torch.cat(x.chunk(2, -1)[::-1], -1) * angle.sin()

        return turned(q), turned(k), v


class Apart(Rotary):
    """Keys are rotated the other way: scores depend on the sum of positions."""

    def placed(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Any:
        angle = angles(q.size(2), q.size(3), start)
        return rotated(q, angle), rotated(k, -angle), v


class HalfPrecision(Rotary):
    """Angles in bfloat16: positions beyond 256 are not whole numbers there."""

    def angles(self, length: int, width: int, start: int) -> Tensor:
        frequencies = (10000.0 ** (-torch.arange(0, width, 2) / width)).bfloat16()
        return torch.arange(start, start + length).bfloat16()[:, None] * frequencies


class OneSpeed(Rotary):
    """arange(0, K, 2) // K is zero throughout."""

    def angles(self, length: int, width: int, start: int) -> Tensor:
        frequencies = 10000.0 ** (-(torch.arange(0, width, 2) // width))
        return torch.arange(start, start + length)[:, None] * frequencies


class AlongHeads(Rotary):
    """Rotated by the number of the head: (B, T, H, K) was expected, and (B, H, T, K) given."""

    def placed(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Any:
        angle = angles(q.size(1), q.size(3))[:, None]
        return rotated(q, angle), rotated(k, angle), v


class AlongRows(Rotary):
    """Rotated by the number of the row."""

    def placed(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Any:
        angle = angles(q.size(0), q.size(3))[:, None, None]
        return rotated(q, angle), rotated(k, angle), v


class NotRotated(Rotary):
    """The rotated tensors are thrown away; the frequencies are a buffer of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 10000.0 ** (-torch.arange(0, WIDTH // HEADS, 2) / (WIDTH // HEADS)))

    def placed(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Any:
        rotated(q, angles(q.size(2), q.size(3)))
        return q, k, v


class Alibi(Attention):
    """A penalty that grows with distance, steeper in some heads."""

    def bias(self, queries: int, keys: int) -> Tensor:
        slopes = 2.0 ** (-8 / self.heads * torch.arange(1, self.heads + 1))
        distance = torch.arange(keys) - torch.arange(keys - queries, keys)[:, None]
        return slopes[:, None, None] * distance

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return super().scores(q, k) + self.bias(q.size(2), k.size(2))


class AlibiUpside(Alibi):
    """The farther, the better."""

    def bias(self, queries: int, keys: int) -> Tensor:
        return -super().bias(queries, keys)


class AlibiOfQueries(Alibi):
    """The penalty is of the query's position alone, which a softmax does not see."""

    def bias(self, queries: int, keys: int) -> Tensor:
        slopes = 2.0 ** (-8 / self.heads * torch.arange(1, self.heads + 1))
        return slopes[:, None, None] * -torch.arange(queries)[:, None]


class Buckets(Attention):
    """T5's: a learned bias of the distance, clipped."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.relative_bias = nn.Embedding(16, HEADS)

    def distance(self, queries: int, keys: int) -> Tensor:
        return (torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)).clamp(0, 15)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return super().scores(q, k) + self.relative_bias(self.distance(q.size(2), k.size(2))).permute(2, 0, 1)


class BucketsOfTheFuture(Buckets):
    """key - query is never positive in a decoder: all the past lies in the first bucket."""

    def distance(self, queries: int, keys: int) -> Tensor:
        return (torch.arange(keys) - torch.arange(keys - queries, keys)[:, None]).clamp(0, 15)


class BagOfWords(BERT):
    def embedded(self, ids: Tensor, keep: Tensor | None) -> Tensor:
        return self.tokens(ids)


class EncoderAlongBatch(BERT):
    def embedded(self, ids: Tensor, keep: Tensor | None) -> Tensor:
        return self.tokens(ids) + self.positions(torch.arange(ids.size(0)))[:, None]


class EncoderCounted(BERT):
    """Positions of RoBERTa, padding_idx + 1 on, counted over everything that is not padding, and the offset forgotten
    where no mask is given."""

    def embedded(self, ids: Tensor, keep: Tensor | None) -> Tensor:
        places = torch.arange(ids.size(1)) if keep is None else keep.long().cumsum(1) * keep + 1
        return self.tokens(ids) + self.positions(places)


class EncoderFromTheEnd(BERT):
    """Positions from the end of what was padded."""

    def embedded(self, ids: Tensor, keep: Tensor | None) -> Tensor:
        return self.tokens(ids) + self.positions(torch.arange(ids.size(1)).flip(0))


def told_spec() -> Spec:
    """The user says how the mask is given."""
    return bert_spec(masked=True, call=lambda model, batch: model(batch.ids, batch.keep))


def plain(**more: Any) -> Spec:
    return Spec(kind="decoder", **more)


PRESENT, ROPE, TABLE = ("pos.present",), ("pos.rope",), ("pos.sinusoid",)


def _bug(name: str, reference: str, build: Any, checks: tuple[str, ...], family: Any = "decoder") -> Bug:
    return Bug(name=name, reference=reference, family=family, checks=checks, build=build)


def _rotary(kind: type[nn.Module], **more: Any) -> Any:
    return lambda: (GPT(kind, learned=False), gpt_spec(**more))


BUGS = (
    _bug("positions are never added", "#33 Lightning-AI/pytorch-lightning#20099", lambda: (NeverAdded(), gpt_spec()), PRESENT),
    _bug("positions along the batch", "#31 influenza_transformer#9", lambda: (AlongBatch(), plain()), ("pos.axis", "pos.present")),
    _bug("one position for all", "#32 DiffPoseTalk#20", lambda: (OneForAll(), plain()), PRESENT),
    _bug("ids of positions are all zero", "#33", lambda: (AlwaysZero(), plain()), PRESENT),
    _bug("positions from the end", "#32", lambda: (FromTheEnd(), plain()), ("prefix.length_invariance",)),
    _bug("positions as shares of the length", "#32", lambda: (OverLength(), plain()), ("prefix.length_invariance",)),
    _bug("positions beyond the eighth are one", "#41", lambda: (Clamped(), gpt_spec()), PRESENT),
    _bug("positions counted anew every eight", "#41", lambda: (Wrapped(), gpt_spec()), PRESENT),
    _bug("twice the exponent", "#34 SamLynnEvans/Transformer#25", lambda: (TwiceTheExponent(), gpt_spec()), TABLE),
    _bug("whole division in the exponent", "#34 zju3dv/LoFTR#41", lambda: (WholeDivision(), gpt_spec()), TABLE),
    _bug("precedence in the exponent", "#34 shenweichen/DeepCTR#379", lambda: (Precedence(), gpt_spec()), TABLE),
    _bug("half the exponent", "#34 Kyubyong/transformer#81", lambda: (HalfTheExponent(), gpt_spec()), TABLE),
    _bug("a table made on the way, of own frequencies", "#34", lambda: (Made(), plain()), TABLE),
    _bug("sine and cosine of different frequencies", "#34 Kyubyong/transformer#81", lambda: (OwnFrequencies(), gpt_spec()), TABLE),
    _bug("sines alone", "#34", lambda: (SinesAlone(), gpt_spec()), TABLE),
    _bug("only queries are rotated", "#35", _rotary(QueryAlone), (*ROPE, "kv.parity")),
    _bug("values are rotated as well", "#35", _rotary(ValuesToo), ROPE),
    _bug("values are rotated in place of keys", "#35", _rotary(ValuesForKeys), ROPE),
    _bug("angles of pairs, rotation of halves", "#35 rasbt/LLMs-from-scratch#747", _rotary(HalvesAndPairs), ROPE),
    _bug("angles of halves, rotation of pairs", "#35 huggingface/transformers#25199", _rotary(PairsAndHalves), ROPE),
    _bug("rotate_half without its minus", "#35", _rotary(SignLost), ROPE),
    _bug("keys are rotated the other way", "#35", _rotary(Apart), ROPE),
    _bug("angles in bfloat16", "#36 EleutherAI/gpt-neox#1003", _rotary(HalfPrecision), ROPE),
    _bug("all pairs turn at one speed", "#34", _rotary(OneSpeed), ROPE),
    _bug("rotated by the number of the head", "#35", _rotary(AlongHeads, positions="rotary"), PRESENT),
    _bug("rotated by the number of the row", "#31", _rotary(AlongRows, positions="rotary"), (*PRESENT, "pos.axis")),
    _bug("the rotated tensors are thrown away", "#33", _rotary(NotRotated), PRESENT),
    _bug("ALiBi rewards distance", "#35", _rotary(AlibiUpside), ROPE),
    _bug("ALiBi of the query alone", "#35", _rotary(AlibiOfQueries, positions="alibi"), PRESENT),
    _bug("all the past in one bucket", "#35", _rotary(BucketsOfTheFuture), PRESENT),
    _bug("an encoder without order", "#33", lambda: (BagOfWords(), bert_spec()), PRESENT, "encoder"),
    _bug("an encoder's positions along the batch", "#31 C.Origami#42", lambda: (EncoderAlongBatch(), bert_spec()), ("pos.axis", "pos.present", "batch.independence"), "encoder"),
    _bug("RoBERTa's offset is lost without a mask", "#37 huggingface/transformers#35044", lambda: (EncoderCounted(), told_spec()), ("pad.invariance",), "encoder"),
    _bug("an encoder's positions from the padded end", "#17", lambda: (EncoderFromTheEnd(), bert_spec()), ("pad.invariance",), "encoder"),
)  # fmt: skip
