"""How our own models are called."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pellucid.config import model as config
from pellucid.config.model import sound_frames
from pellucid.config.parts import ALiBi, Learned, NoPositions, RelativeBias, Rotary, Sinusoidal, Stack
from pellucid.doctor.spec import Batch, Call, Positions, Spec
from pellucid.inference.decode import State
from pellucid.models.decoder import Decoder
from pellucid.models.encoder import Encoder
from pellucid.models.encoder_decoder import EncoderDecoder
from pellucid.training import cross_entropy

POSITIONS: dict[type, Positions] = {
    Sinusoidal: "sinusoidal",
    Learned: "learned",
    Rotary: "rotary",
    ALiBi: "alibi",
    RelativeBias: "relative",
    NoPositions: "none",
}
CAPACITY = 256


def spec_of(model: Any) -> Spec | None:
    """All that a spec says, for a model of ours; ``None`` for any other."""
    match model:
        case Decoder():
            return _decoder(model.config)
        case EncoderDecoder():
            return _both(model.config)
        case Encoder():
            return _encoder(model.config)
    return None


def _decoder(described: config.Decoder) -> Spec:
    told = _told(described.stack, described.front)
    tied = {"target", "output"} <= set(described.tie)
    return Spec(kind="decoder", call=_decoded, step=_step, reorder=_reorder, tied=tied, **told, **_trained())


def _both(described: config.EncoderDecoder) -> Spec:
    told = _told(described.decoder, described.target)
    tied = {"target", "output"} <= set(described.tie)
    example = None
    if isinstance(described.source, config.Audio):
        sound = torch.zeros(1, described.source.mels, sound_frames(described.encoder))
        example = Batch(ids=torch.zeros(1, 1, dtype=torch.long), source=sound)
    return Spec(
        kind="encoder_decoder", call=_translated, step=_step, reorder=_reorder, tied=tied, example=example,
        **told, **_trained(),
    )  # fmt: skip


def _encoder(described: config.Encoder) -> Spec:
    told = _told(described.stack, described.front)
    masked = isinstance(described.head, config.MaskedLanguage)
    if isinstance(described.front, config.Patches):
        size = described.front.image_size
        image = torch.zeros(1, described.front.channels, size, size)
        return Spec(kind="encoder", call=_read, pooled=True, **told | {"example": Batch(ids=image), "masked": False})
    trained: dict[str, Any] = {"loss": _loss, "labels": "same"} if masked else {}
    pooled = not isinstance(described.head, config.MaskedLanguage | config.TokenClassification)
    return Spec(kind="encoder", call=_read, pooled=pooled, **told, **trained)


def _told(stack: Stack, front: config.Front) -> dict[str, Any]:
    return {
        "vocab_size": front.vocab_size if isinstance(front, config.Tokens) else None,
        "window": stack.windows if any(stack.windows) else None,
        "max_length": stack.max_length,
        "positions": POSITIONS[type(stack.positions)],
        "scale": stack.attention.scale,
        "masked": True,
        "pad_sides": ("left", "right"),
    }


def _trained() -> dict[str, Any]:
    return {"loss": _loss, "labels": "next"}


def _decoded(model: Decoder, batch: Batch) -> Tensor:
    return model(batch.ids, keep=batch.keep)


def _translated(model: EncoderDecoder, batch: Batch) -> Tensor:
    return model(batch.source, batch.ids, source_keep=batch.source_keep, keep=batch.keep)


def _read(model: Encoder, batch: Batch) -> Tensor:
    return model(batch.ids, keep=batch.keep) if batch.keep is not None else model(batch.ids)


def _step(model: Decoder | EncoderDecoder, batch: Batch, state: State | None) -> tuple[Tensor, State]:
    if state is None:
        rows = batch.ids.size(0)
        if isinstance(model, EncoderDecoder):
            assert batch.source is not None
            encoded = model.encode(batch.source, keep=batch.source_keep)
            state = State(model, model.new_cache(encoded, CAPACITY), encoded)
        else:
            state = State(model, model.new_cache(rows, CAPACITY), None)
    keep = None if batch.keep is None else batch.keep[:, -batch.ids.size(1) :]
    return state.scores(batch.ids, keep), state


CALLS: dict[type, Call] = {Encoder: _read, Decoder: _decoded, EncoderDecoder: _translated}


def _reorder(state: State, rows: Tensor) -> State:
    state.select(rows)
    return state


def _loss(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The plain twin of the chunked loss: the data has shifted the labels, the loss takes them as they are."""
    labels = batch.labels
    if labels is None:
        labels = batch.ids if isinstance(model, Encoder) else torch.full_like(batch.ids, -100)
        if not isinstance(model, Encoder):
            labels[:, :-1] = batch.ids[:, 1:]
        if batch.keep is not None:
            labels = labels.masked_fill(~batch.keep, -100)
            if not isinstance(model, Encoder):
                labels[:, :-1] = labels[:, :-1].masked_fill(~batch.keep[:, 1:], -100)
    outputs = CALLS[type(model)](model, batch)
    asked = labels != -100
    total, *_ = cross_entropy.plain(outputs[asked].float(), labels[asked], 0.0, 0.0)
    return total / asked.sum(), outputs
