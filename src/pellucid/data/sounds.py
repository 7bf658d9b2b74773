"""Sound as the log-mel spectrogram that a listening model reads (the ``audio`` extra, for files).

Shapes: B recordings, M mels, F frames, N samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.config.files import read_plain
from pellucid.errors import ConfigError, DataError, UserError

RATE = 16_000  # samples a second
WIDTH, HOP = 400, 160  # samples of a frame, and usually from one to the next: 25 and 10 ms
SETTINGS = "preprocessor_config.json"
UNHEARD = {
    "feature_extractor_type", "processor_class", "image_processor_type", "return_attention_mask", "padding_side",
    "mel_filters", "n_samples", "nb_max_frames",
}  # fmt: skip
QUIETEST, DEEPEST = 1e-10, 8.0  # the floor of the power, and how many powers of ten below the loudest still count


@dataclass(frozen=True)
class SoundReader:
    """Log-mel spectrograms as Whisper computes them (Radford et al. 2022, §2.2), each padded to the model's length.

    Attributes:
        mels: M.
        frames: F: 3,000 for 30 seconds.
        hop: samples from one frame to the next: 160 are 10 ms.
    """

    mels: int = 80
    frames: int = 3000
    hop: int = HOP

    @classmethod
    def of(cls, folder: Path, mels: int, frames: int) -> SoundReader:
        """As the folder of a published model says, which can be nothing else than what we do.

        Raises:
            ConfigError: for other frames, mels or rates, or a setting that is not known.
        """
        told = read_plain(folder / SETTINGS) if (folder / SETTINGS).exists() else {}
        hop = told.get("hop_length", HOP)
        if not isinstance(hop, int) or hop < 1:
            raise ConfigError(f"{folder / SETTINGS}: hop_length", f"found {hop!r}", "a number of samples")
        known = {
            "feature_size": mels, "sampling_rate": RATE, "n_fft": WIDTH, "hop_length": hop, "padding_value": 0,
            "chunk_length": frames * hop // RATE, "dither": 0, "do_normalize": False,
        }  # fmt: skip
        for name, value in told.items():
            if name in known and value != known[name]:
                raise ConfigError(f"{folder / SETTINGS}: {name}", f"found {value!r}", f"{known[name]}")
            if value and name not in known and name not in UNHEARD:
                raise ConfigError(folder / SETTINGS, f"{name}: not known here, so not honoured", "a log-mel front")
        return cls(mels, frames, hop)

    @property
    def samples(self) -> int:
        """As many as fill the frames."""
        return self.frames * self.hop

    @cached_property
    def filters(self) -> Float[Tensor, "M W"]:
        """What each mel takes of the frequencies of a frame."""
        return mel_filters(self.mels)

    def __call__(self, sounds: Sequence[Any]) -> Float[Tensor, "B M F"]:
        """Waves between -1 and 1 at 16 kHz, in one channel; what is longer is cut."""
        waves = [torch.as_tensor(np.asarray(sound), dtype=torch.float32)[: self.samples] for sound in sounds]
        padded = torch.stack([torch.nn.functional.pad(wave, (0, self.samples - wave.numel())) for wave in waves])
        spectrum = torch.stft(padded, WIDTH, self.hop, window=torch.hann_window(WIDTH), return_complex=True)
        real, imaginary = torch.view_as_real(spectrum[..., :-1]).unbind(-1)
        power = real**2 + imaginary**2  # without the root that the absolute value takes
        log = (self.filters @ power).clamp(min=QUIETEST).log10()
        loudest = log.amax(dim=(1, 2), keepdim=True)
        return (torch.maximum(log, loudest - DEEPEST) + 4) / 4


def mel_filters(mels: int) -> Float[Tensor, "M W"]:
    """Triangles, evenly spaced in mels, of equal area (Slaney 1998, Auditory Toolbox)."""
    edges = _hertz(torch.linspace(0, _mels(RATE / 2), mels + 2, dtype=torch.float64))
    frequencies = torch.linspace(0, RATE / 2, WIDTH // 2 + 1, dtype=torch.float64)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).float()


LINEAR, BEND = 200 / 3, 1000.0  # hertz a mel below the bend, from which on the scale is logarithmic
STEP = math.log(6.4) / 27


def _mels(hertz: float) -> float:
    return hertz / LINEAR if hertz < BEND else BEND / LINEAR + math.log(hertz / BEND) / STEP


def _hertz(mels: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    bend = BEND / LINEAR
    return torch.where(mels < bend, mels * LINEAR, BEND * torch.exp(STEP * (mels - bend)))


def open_sound(path: str | Path | BinaryIO) -> Float[np.ndarray, " N"]:
    """A recording, a file or its name, as a wave at 16 kHz in one channel.

    Raises:
        DataError: for a file that is missing or no recording.
        UserError: when the extra is not installed.
    """
    try:
        import soundfile
        import soxr
    except ImportError:
        raise UserError(str(path), "recordings need the audio extra", hint="pip install 'pellucid[audio]'") from None
    if isinstance(path, str | Path) and not Path(path).exists():
        raise DataError(path, "no such file", "a recording")
    try:
        wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(str(path), f"cannot be read ({error})", "wav, flac, ogg or mp3") from None
    if not len(wave):  # a header alone, as of a file that was cut off
        raise DataError(str(path), "holds no sound", "wav, flac, ogg or mp3, whole")
    single = wave.mean(axis=1)
    return single if rate == RATE else soxr.resample(single, rate, RATE)
