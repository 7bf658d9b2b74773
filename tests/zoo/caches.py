"""Decoders whose cache gives something else than one pass over everything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.doctor.spec import Batch, Spec
from zoo.base import GPT, HEADS, WIDTH, Attention, Rotary, angles, gpt_spec, rotated
from zoo.decoders import Window
from zoo.entry import Bug

Past = tuple[Tensor, Tensor] | None


class NewAlone(Attention):
    """The step attends to itself: what was cached is not read."""

    def remembered(self, k: Tensor, v: Tensor, past: Past) -> tuple[Tensor, Tensor]:
        return k, v


class NotGrown(Attention):
    """Keys and values of the first call stay the cache for ever."""

    def forward(self, x: Tensor, keep: Any = None, past: Past = None) -> Any:
        out, cache = super().forward(x, keep, past)
        return out, cache if past is None else past


class KeysAlone(Attention):
    """Values are those of the first call, with the last repeated."""

    def remembered(self, k: Tensor, v: Tensor, past: Past) -> tuple[Tensor, Tensor]:
        k, v = super().remembered(k, v, past)
        return (k, v) if past is None else (k, past[1].repeat(1, 1, 2, 1)[:, :, : k.size(2)])


class Before(Attention):
    """New keys are put before the old ones."""

    def remembered(self, k: Tensor, v: Tensor, past: Past) -> tuple[Tensor, Tensor]:
        return (k, v) if past is None else (torch.cat([k, past[0]], 2), torch.cat([v, past[1]], 2))

    def allowed(self, queries: int, keys: int) -> Tensor:
        return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)


class OverWidth(Attention):
    """Concatenated along the channels of a head, which raises."""

    def remembered(self, k: Tensor, v: Tensor, past: Past) -> tuple[Tensor, Tensor]:
        return (k, v) if past is None else (torch.cat([past[0], k], 3), torch.cat([past[1], v], 3))


class Exchanged(Attention):
    """Keys are returned as values and values as keys."""

    def forward(self, x: Tensor, keep: Any = None, past: Past = None) -> Any:
        out, (k, v) = super().forward(x, keep, past)
        return out, (v, k)


class TopLeft(Attention):
    """is_causal with fewer queries than keys hides from the first query all but the first key."""

    def forward(self, x: Tensor, keep: Any = None, past: Past = None) -> Any:
        q, k, v = (self.split(project(x)) for project in (self.q, self.k, self.v))
        k, v = self.remembered(k, v, past)
        return self.out(self.join(F.scaled_dot_product_attention(q, k, v, is_causal=True))), (k, v)


class TopLeftOfChunks(TopLeft):
    """One query is let see all; a chunk is not."""

    def forward(self, x: Tensor, keep: Any = None, past: Past = None) -> Any:
        q, k, v = (self.split(project(x)) for project in (self.q, self.k, self.v))
        k, v = self.remembered(k, v, past)
        context = F.scaled_dot_product_attention(q, k, v, is_causal=q.size(2) > 1)
        return self.out(self.join(context)), (k, v)


class UnmaskedChunks(Attention):
    """No mask is made once there is a cache: right for one token, not for several."""

    def forward(self, x: Tensor, keep: Any = None, past: Past = None) -> Any:
        self.causal = past is None
        return super().forward(x, keep, past)


class FromZero(Rotary):
    """Positions start again at 0 with every step."""

    def placed(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Any:
        return super().placed(q, k, v, 0)


class OneTooFar(Rotary):
    """With a cache, positions are one ahead."""

    def placed(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Any:
        return super().placed(q, k, v, start + (start > 0) if q.size(2) > 1 else start)


class QueryFromZero(Rotary):
    """Only the query forgets the cache."""

    def placed(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Any:
        return rotated(q, self.angles(q.size(2), q.size(3), 0)), rotated(k, self.angles(k.size(2), k.size(3), start)), v


class TurnedAgain(Rotary):
    """Keys are rotated after they met those of the cache, and kept so."""

    def placed(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Any:
        self.first = start
        return rotated(q, angles(q.size(2), q.size(3), start)), k, v

    def remembered(self, k: Tensor, v: Tensor, past: Past) -> tuple[Tensor, Tensor]:
        k, v = super().remembered(k, v, past)
        return rotated(k, angles(k.size(2), k.size(3))), v


class Ring(Window):
    """Keeps the last eight keys, but drops the oldest before the query has seen it."""

    def forward(self, x: Tensor, keep: Any = None, past: Past = None) -> Any:
        out, (k, v) = super().forward(x, keep, past)
        return out, (k[:, :, -5:], v[:, :, -5:])


class Slots(Attention):
    """A ring of sixteen slots that is written from its beginning again while everything should be seen."""

    def remembered(self, k: Tensor, v: Tensor, past: Past) -> tuple[Tensor, Tensor]:
        k, v = super().remembered(k, v, past)
        return k, v

    def forward(self, x: Tensor, keep: Any = None, past: Past = None) -> Any:
        out, (k, v) = super().forward(x, keep, past)
        return out, (k[:, :, -16:], v[:, :, -16:])


class Room(nn.Module):
    """A cache of a fixed length whose empty slots take part in the softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Attention()

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        a = self.inner
        q, k, v = (a.split(project(x)) for project in (a.q, a.k, a.v))
        if past is None and x.size(1) > 12:
            return a(x)
        room, at = (k.new_zeros(2, *k.shape[:2], 64, k.size(3)), 0) if past is None else past
        room = room.clone()
        room[0, :, :, at : at + k.size(2)], room[1, :, :, at : at + k.size(2)] = k, v
        return a.out(a.join(a.scores(q, room[0]).softmax(-1) @ room[1])), (room, at + k.size(2))


class Stateful(Attention):
    """Keys and values are kept in the module from one text to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Past = None

    def forward(self, x: Tensor, keep: Any = None, past: Past = None) -> Any:
        if self.kept is not None and self.kept[0].size(0) == x.size(0) and x.size(1) < 4:
            past = self.kept
        out, self.kept = super().forward(x, keep, past)
        return out, self.kept


class Remembering(Attention):
    """A summary of the last text is left in the module and read by the next."""

    def __init__(self) -> None:
        super().__init__()
        self.summary: Tensor | None = None

    def forward(self, x: Tensor, keep: Any = None, past: Past = None) -> Any:
        out, cache = super().forward(x if self.summary is None else x + 0.1 * self.summary, keep, past)
        self.summary = x.mean((0, 1)).detach()
        return out, cache


class MaskKept(Attention):
    """The first mask is kept, and read from its beginning: right for a text, not for a step."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = torch.zeros(0, 0, dtype=torch.bool)

    def allowed(self, queries: int, keys: int) -> Tensor:
        if self.kept.size(0) < keys:
            self.kept = torch.ones(keys, keys, dtype=torch.bool).tril()
        return self.kept[:queries, :keys]


class Counting(GPT):
    """A buffer counts positions, over all texts."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("at", torch.zeros((), dtype=torch.long))

    def embedded(self, ids: Tensor, start: int = 0) -> Tensor:
        x = self.tokens(ids) + self.positions((torch.arange(ids.size(1)) + self.at) % 64)
        self.at += ids.size(1)
        return x


class LearnedFromZero(GPT):
    def start(self, cache: Any) -> int:
        return 0


class LearnedOneShort(GPT):
    """Counts the cache less one: the last cached position comes twice."""

    def start(self, cache: Any) -> int:
        return max(0, super().start(cache) - 1)


class LearnedLast(GPT):
    """Every step takes the position of the prompt's length."""

    def step(self, ids: Tensor, cache: Any, keep: Any = None) -> Any:
        if cache is None:
            self.prompt = ids.size(1)
        return super().step(ids, cache, keep)

    def start(self, cache: Any) -> int:
        return 0 if cache is None else self.prompt


class OneForAll(GPT):
    """Every layer is given the cache of the first."""

    def step(self, ids: Tensor, cache: Any, keep: Any = None) -> Any:
        return super().step(ids, None if cache is None else [cache[0]] * len(cache), keep)


class LastLayerAlone(GPT):
    """The list of caches is made anew, with the past of the last layer lost."""

    def step(self, ids: Tensor, cache: Any, keep: Any = None) -> Any:
        x, grown = self.embedded(ids, self.start(cache)), []
        for i, block in enumerate(self.blocks):
            x, one = block(x, keep, None if cache is None or i == len(self.blocks) - 1 else cache[i])
            grown.append(one)
        return self.head(self.norm(x)), grown


class Padded(GPT):
    """Texts padded on the left, positions counted over what is real."""

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.step(ids, None, attention_mask)[0]

    def step(self, ids: Tensor, cache: Any, keep: Tensor | None = None) -> Any:
        x, grown = self.tokens(ids) + self.positions(self.places(ids, cache, keep)), []
        for i, block in enumerate(self.blocks):
            x, one = block(x, None if keep is None else keep.bool(), None if cache is None else cache[i])
            grown.append(one)
        return self.head(self.norm(x)), grown

    def places(self, ids: Tensor, cache: Any, keep: Tensor | None) -> Tensor:
        """(B, T) or (T,)."""
        if keep is None:
            return torch.arange(ids.size(1)) + self.start(cache)
        return (keep.long().cumsum(1) - 1).clamp(min=0)[:, -ids.size(1) :]


class Blind(Attention):
    """A query that sees no key takes the mean of all, and not NaN."""

    def masked(self, scores: Tensor, keep: Tensor | None) -> Tensor:
        hidden = ~self.allowed(*scores.shape[-2:])[None, None]
        if keep is not None:
            hidden = hidden | ~keep[:, None, None]
        return scores.masked_fill(hidden, torch.finfo(scores.dtype).min)


class PaddedOneCounter(Padded):
    """The prompt's positions are counted over what is real; a step takes the length of the cache."""

    def places(self, ids: Tensor, cache: Any, keep: Tensor | None) -> Tensor:
        if cache is None:
            return super().places(ids, cache, keep)
        return torch.arange(ids.size(1)) + self.start(cache)


class PaddedFromLeft(Padded):
    """Positions from the left edge, whatever is padding."""

    def places(self, ids: Tensor, cache: Any, keep: Tensor | None) -> Tensor:
        return torch.arange(ids.size(1)) + self.start(cache)


class PaddedUnseen(Padded):
    """A step no longer hides what is padding in the cache."""

    def step(self, ids: Tensor, cache: Any, keep: Tensor | None = None) -> Any:
        places = self.places(ids, cache, keep)
        x, grown = self.tokens(ids) + self.positions(places), []
        for i, block in enumerate(self.blocks):
            x, one = block(x, keep.bool() if keep is not None and cache is None else None, cache and cache[i])
            grown.append(one)
        return self.head(self.norm(x)), grown


def padded_spec(**more: Any) -> Spec:
    """Of :class:`Padded`: how it steps with padding."""
    return Spec(kind="decoder", step=lambda model, batch, cache: model.step(batch.ids, cache, batch.keep), **more)


def poisoned(cache: Any) -> Any:
    """Garbage in the free slots of :class:`Room`."""
    found = []
    for room, at in cache:
        room = room.clone()
        room[..., at:, :] = 1e3
        found.append((room, at))
    return found


class Reused(nn.Module):
    """A fixed room that is masked by -1e3 added: garbage of earlier texts outweighs that."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Attention()

    def forward(self, x: Tensor, keep: Any = None, past: Any = None) -> Any:
        a = self.inner
        q, k, v = (a.split(project(x)) for project in (a.q, a.k, a.v))
        room, at = (k.new_zeros(2, *k.shape[:2], 64, k.size(3)), 0) if past is None else past
        room = room.clone()
        end = at + k.size(2)
        room[0, :, :, at:end], room[1, :, :, at:end] = k, v
        hidden = torch.arange(64) > torch.arange(at, end)[:, None]
        weights = (a.scores(q, room[0]) - 60.0 * hidden).softmax(-1)
        return a.out(a.join(weights @ room[1])), (room, end)


def reorder_keys_alone(cache: Any, rows: Tensor) -> Any:
    """Values stay with the beam they came from."""
    return [(k[rows], v) for k, v in cache]


def reorder_wrongly(cache: Any, rows: Tensor) -> Any:
    """The inverse of the permutation."""
    return [(k[rows.argsort()], v[rows.argsort()]) for k, v in cache]


def last_alone(model: Any, batch: Batch, cache: Any) -> Any:
    """A step that hands every token of a chunk over again."""
    found, cache = model.step(batch.ids, cache)
    return model.step(batch.ids[:, -1:], cache) if batch.ids.size(1) > 1 and found.size(1) > 1 else (found, cache)


def room_spec(**more: Any) -> Spec:
    """The room's cache says itself how much of it is in use."""
    return gpt_spec(**more)


class InRoom(GPT):
    def start(self, cache: Any) -> int:
        return 0 if cache is None else cache[0][1]


KV = ("kv.parity",)


def _kv(name: str, reference: str, build: Any, checks: tuple[str, ...] = KV) -> Bug:
    return Bug(name=name, reference=reference, family="decoder", checks=checks, build=build)


BUGS = (
    _kv("the cache is not read", "#39", lambda: (GPT(NewAlone), gpt_spec())),
    _kv("the cache does not grow", "#39", lambda: (GPT(NotGrown, learned=False), gpt_spec())),
    _kv("values are not appended", "#42", lambda: (GPT(KeysAlone), gpt_spec())),
    _kv("new keys stand before the old", "#41", lambda: (GPT(Before), gpt_spec())),
    _kv("concatenated along the channels", "#39", lambda: (GPT(OverWidth), gpt_spec())),
    _kv("keys and values exchanged in the cache", "#42", lambda: (GPT(Exchanged), gpt_spec())),
    _kv("is_causal with one query and many keys", "#39 pytorch/pytorch#108108", lambda: (GPT(TopLeft), gpt_spec())),
    _kv("is_causal with a chunk of queries", "#39 Dao-AILab/flash-attention#517", lambda: (GPT(TopLeftOfChunks), gpt_spec())),
    _kv("a mask is kept and read from its beginning", "#39", lambda: (GPT(MaskKept), gpt_spec())),
    _kv("no mask once there is a cache", "#13 TinyLLM#18", lambda: (GPT(UnmaskedChunks), gpt_spec())),
    _kv("rotary positions start again at 0", "#37", lambda: (GPT(FromZero, learned=False), gpt_spec())),
    _kv("rotary positions of a chunk are one ahead", "#37", lambda: (GPT(OneTooFar, learned=False), gpt_spec())),
    _kv("the query alone forgets the cache's length", "#37", lambda: (GPT(QueryFromZero, learned=False), gpt_spec())),
    _kv("cached keys are rotated again", "#42", lambda: (GPT(TurnedAgain, learned=False), gpt_spec())),
    _kv("learned positions start again at 0", "#37", lambda: (LearnedFromZero(), gpt_spec())),
    _kv("learned positions are one short", "#37", lambda: (LearnedOneShort(), gpt_spec())),
    _kv("learned positions stay at the prompt's length", "#38", lambda: (LearnedLast(), gpt_spec())),
    _kv("a ring that drops a key too early", "#41 mistralai/mistral-inference#88", lambda: (GPT(Ring, learned=False), gpt_spec(window=8))),
    _kv("a ring of sixteen for a model that sees all", "#41", lambda: (GPT(Slots, learned=False), gpt_spec())),
    _kv("empty slots take part in the softmax", "#43", lambda: (InRoom(Room), room_spec()), ("kv.parity", "cache.poison")),
    _kv("garbage in free slots is seen", "#43 ggml-org/llama.cpp#26744", lambda: (InRoom(Reused), room_spec(poison=poisoned)), ("cache.poison",)),
    _kv("all layers read the first one's cache", "#40", lambda: (OneForAll(), gpt_spec())),
    _kv("the last layer's past is lost", "#40", lambda: (LastLayerAlone(), gpt_spec())),
    _kv("tokens of a chunk are fed twice", "#49", lambda: (GPT(), replace(gpt_spec(), step=last_alone))),
    _kv("one position counter for all rows", "#38 rasbt/reasoning-from-scratch#33", lambda: (PaddedOneCounter(Blind), padded_spec()), ("kv.parity", "pad.invariance")),
    _kv("positions count the padding on the left", "#17 huggingface/transformers#18478", lambda: (PaddedFromLeft(Blind), padded_spec(pad_sides=("left",))), ("pad.invariance",)),
    _kv("padding in the cache is seen", "#38", lambda: (PaddedUnseen(Blind), padded_spec())),
    _kv("padding on the left makes NaN", "#20 pytorch/pytorch#41508", lambda: (Padded(), padded_spec()), ("pad.invariance",)),
    _kv("only keys follow their beam", "#44", lambda: (GPT(), gpt_spec(reorder=reorder_keys_alone)), ("decode.reorder",)),
    _kv("beams are sent back", "#44 awslabs/sockeye#731", lambda: (GPT(), gpt_spec(reorder=reorder_wrongly)), ("decode.reorder",)),
    _kv("keys are kept in the module", "#40", lambda: (GPT(Stateful), Spec(kind="decoder")), ("forward.stateless",)),
    _kv("a summary is left for the next text", "#63", lambda: (GPT(Remembering), Spec(kind="decoder")), ("forward.stateless",)),
    _kv("a buffer counts positions over all texts", "#38", lambda: (Counting(), Spec(kind="decoder")), ("forward.stateless",)),
)  # fmt: skip

HEADS_OF = HEADS, WIDTH
