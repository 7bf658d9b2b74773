"""Pictures and sounds as a model reads them, and which part of them each of its positions stands for.

Shapes: C channels, Y rows and X columns of pixels, M mels, F frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pellucid.config import model as config
from pellucid.config.model import sound_frames
from pellucid.data.images import ImageReader, open_image
from pellucid.data.sounds import RATE, SoundReader, open_sound
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import DataError, UserError
from pellucid.inference.reading import Reading
from pellucid.inference.transcribe import Marks, greedily, prompt_for
from pellucid.models.checkpoint import Loaded
from pellucid.models.encoder_decoder import EncoderDecoder

Sense = Literal["text", "picture", "sound"]
CLASS = "[class]"


@dataclass(frozen=True)
class Seen:
    """A picture or a sound.

    Attributes:
        sense: which of the two.
        values: what the model reads, (1, C, Y, X) or (1, M, F).
        drawn: the picture at the size at which it is read, or the spectrogram, low tones at the bottom.
        rows, columns: positions stand for the cells of such a grid over it, row by row.
        before: positions that come first and stand for none, as the class token does.
        pieces: a name for each position.
        seconds: that a sound goes on.
    """

    sense: Sense
    values: Float[Tensor, "..."]
    drawn: UInt8[Tensor, "Y X C"]
    rows: int
    columns: int
    before: int
    pieces: tuple[str, ...]
    seconds: float | None = None


def sense_of(model: config.Model) -> Sense:
    """What a model reads."""
    front = model.source if isinstance(model, config.EncoderDecoder) else model.front
    match front:
        case config.Patches():
            return "picture"
        case config.Audio():
            return "sound"
        case _:
            return "text"


def opened(sense: Sense, content: bytes, name: str) -> Any:
    """A picture, or a wave at 16 kHz, from the bytes of a file.

    Raises:
        DataError: for what is neither.
        UserError: when the extra that reads such files is not installed.
    """
    try:
        return open_image(BytesIO(content)) if sense == "picture" else open_sound(BytesIO(content))
    except DataError as error:  # whose words are about bytes that have no name
        raise DataError(name, "cannot be read", error.expected) from None


def see(loaded: Loaded, content: Any) -> Seen:
    """A picture or a wave as a model reads it.

    Raises:
        UserError: for a model that reads texts.
    """
    match sense_of(loaded.model.config):
        case "picture":
            return _picture(loaded, content)
        case "sound":
            return _sound(loaded, content)
        case _:
            raise UserError("input", "this model reads text", "one that reads pictures or sound")


def _picture(loaded: Loaded, image: Any) -> Seen:
    described = loaded.model.config
    assert isinstance(described, config.Encoder)
    assert isinstance(described.front, config.Patches)
    reader = loaded.images or ImageReader.usual(described.front.image_size, described.front.channels)
    values = reader([image])
    side = described.front.image_size // described.front.patch_size
    cells = [f"{row + 1},{column + 1}" for row in range(side) for column in range(side)]
    return Seen("picture", values.to(loaded.model.device), reader.drawn(values[0]), side, side, 1, (CLASS, *cells))


def _sound(loaded: Loaded, wave: Any) -> Seen:
    described = loaded.model.config
    assert isinstance(described, config.EncoderDecoder)
    assert isinstance(described.source, config.Audio)
    reader = loaded.sounds or SoundReader(described.source.mels, sound_frames(described.encoder))
    mels = reader([wave])
    low, high = mels.amin(), mels.amax()
    grey = ((mels[0].flip(0) - low) / (high - low).clamp(min=1e-6) * 255).to(torch.uint8)
    positions = reader.frames // 2
    pieces = tuple(f"{2 * i * reader.hop / RATE:.2f}s" for i in range(positions))
    seconds = min(len(wave), reader.samples) / RATE
    return Seen("sound", mels.to(loaded.model.device), grey[..., None], 1, positions, 0, pieces, seconds)


def read_seen(loaded: Loaded, seen: Seen, target: str | None = None) -> Reading:
    """What a model is given of a picture or a sound.

    Args:
        target: what an encoder–decoder is fed as written; what it writes itself, greedily, when left out.

    Raises:
        UserError: for a target where nothing is written.
    """
    model = loaded.model
    if not isinstance(model, EncoderDecoder):
        if target is not None:
            raise UserError("target", f"a model of kind {type(model).__name__} writes nothing", "an encoder–decoder")
        return Reading((seen.values,), seen.pieces, seen=seen)
    marks = Marks.of(loaded.tokenizer)
    prompt = prompt_for(model, marks, seen.values, timed=False)
    writer: Tokenizer = loaded.tokenizer.target
    written: Sequence[int] = (
        greedily(model, marks, prompt, seen.values, timed=False) if target is None else writer.encode(target)
    )
    ids = [*prompt, *written]
    return Reading(
        (seen.values, torch.tensor([ids], device=model.device)), seen.pieces, tuple(writer.pieces(ids)), seen=seen
    )
