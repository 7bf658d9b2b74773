"""Images as the numbers that a vision model reads (the ``images`` extra).

Shapes: B images, C channels, Y rows, X columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pellucid.config.files import read_plain
from pellucid.errors import ConfigError, DataError, UserError

SETTINGS = "preprocessor_config.json"
HONOURED = {
    "do_resize", "do_rescale", "do_normalize", "size", "resample", "rescale_factor", "image_mean", "image_std",
    "image_processor_type", "feature_extractor_type", "do_convert_rgb", "default_to_square", "input_data_format",
    "data_format", "return_tensors", "disable_grouping", "device", "processor_class",
}  # fmt: skip
HALF = 0.5
BILINEAR, FILTERS = 2, 6  # Pillow's: one of them, and how many there are


@dataclass(frozen=True, kw_only=True)
class ImageReader:
    """Resizes, scales to 0 … 1, centres and normalises.

    Attributes:
        size: rows and columns that the model reads.
        channels: 3 for colours, 1 for grey.
        mean, deviation: by channel, of the values between 0 and 1.
        scale: what the bytes are multiplied by.
        resample: the number of Pillow's filter; 2 is bilinear.
    """

    size: tuple[int, int]
    channels: int = 3
    mean: tuple[float, ...] = (HALF,) * 3
    deviation: tuple[float, ...] = (HALF,) * 3
    scale: float = 1 / 255
    resample: int = BILINEAR

    @classmethod
    def of(cls, folder: Path, image_size: int, channels: int) -> ImageReader:
        """As the folder of a published model says, or by halves where it says nothing.

        Raises:
            ConfigError: for a file that cannot be read, or a step that is not supported.
        """
        path = folder / SETTINGS
        if not path.exists():
            return cls.usual(image_size, channels)
        told = read_plain(path)
        if more := [name for name, value in told.items() if value and name not in HONOURED]:
            raise ConfigError(path, f"{', '.join(more)}: not known here, so not honoured", "resizing and normalising")
        normalises = told.get("do_normalize", True)
        size = told.get("size") or image_size
        square = (image_size, image_size)
        if size not in (image_size, {"height": image_size, "width": image_size}):
            raise ConfigError(f"{path}: size", f"found {size}", f"{image_size} × {image_size}, which the model reads")
        if not told.get("do_resize", True):
            raise ConfigError(f"{path}: do_resize", "found False", "True")
        return cls(
            size=square,
            channels=channels,
            mean=_by_channel(told, "image_mean", channels, path) if normalises else (0.0,) * channels,
            deviation=_by_channel(told, "image_std", channels, path) if normalises else (1.0,) * channels,
            scale=_factor(told, path) if told.get("do_rescale", True) else 1.0,
            resample=_filter(told, path),
        )

    @classmethod
    def usual(cls, image_size: int, channels: int) -> ImageReader:
        """Values from -1 to 1."""
        halves = (HALF,) * channels
        return cls(size=(image_size, image_size), channels=channels, mean=halves, deviation=halves)

    def drawn(self, values: Float[Tensor, "C Y X"]) -> UInt8[Tensor, "Y X C"]:
        """The picture that these values stand for."""
        pixels = values.permute(1, 2, 0) * torch.tensor(self.deviation) + torch.tensor(self.mean)
        return (pixels / self.scale).round().clamp(0, 255).to(torch.uint8)

    def __call__(self, images: Sequence[Any]) -> Float[Tensor, "B C Y X"]:
        """Pillow images, or arrays of bytes (Y, X, C), one grey channel among them, or (Y, X).

        Raises:
            UserError: when the extra is not installed.
        """
        return torch.stack([self._one(image) for image in images])

    def _one(self, image: Any) -> Float[Tensor, "C Y X"]:
        if isinstance(image, np.ndarray):
            image = _pillow().fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
        picture = image.convert("RGB" if self.channels == 3 else "L")
        resized = np.asarray(picture.resize(self.size[::-1], self.resample), dtype=np.float32)
        values = torch.from_numpy(resized.reshape(*self.size, self.channels)) * self.scale
        return ((values - torch.tensor(self.mean)) / torch.tensor(self.deviation)).permute(2, 0, 1)


def _by_channel(told: Mapping[str, Any], name: str, channels: int, path: Path) -> tuple[float, ...]:
    """A number for each channel: as the file says, or halves."""
    found = told.get(name) or (HALF,) * channels
    if not isinstance(found, list | tuple) or len(found) != channels:
        raise ConfigError(f"{path}: {name}", f"found {found}", f"{channels} numbers, one for each channel")
    if not all(_is_number(value) for value in found) or (name == "image_std" and 0 in found):
        raise ConfigError(f"{path}: {name}", f"found {found}", "numbers, and of a deviation none that is 0")
    return tuple(map(float, found))


def _factor(told: Mapping[str, Any], path: Path) -> float:
    """What the bytes are multiplied by."""
    found = told.get("rescale_factor", 1 / 255)
    if not _is_number(found):
        raise ConfigError(f"{path}: rescale_factor", f"found {found!r}", "a number, such as 1/255 written out")
    return float(found)


def _filter(told: Mapping[str, Any], path: Path) -> int:
    """The number of a filter of Pillow."""
    found = told.get("resample", BILINEAR)
    if type(found) is not int or found not in range(FILTERS):
        raise ConfigError(f"{path}: resample", f"found {found!r}", f"the number of a filter, from 0 to {FILTERS - 1}")
    return found


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and isfinite(value)  # type: ignore[arg-type]


def open_image(path: str | Path | BinaryIO) -> Any:
    """A Pillow image, of a file or its name.

    Raises:
        DataError: for a file that is missing or no image.
        UserError: when the extra is not installed.
    """
    library = _pillow()
    try:
        with library.open(path) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise DataError(str(path), "no such file", "an image") from None
    except (OSError, ValueError, library.DecompressionBombError) as error:
        raise DataError(str(path), f"cannot be read ({error})", "an image that Pillow opens") from None


def write_grey(pixels: UInt8[Tensor, "Y X"], path: Path, *, size: tuple[int, int]) -> None:
    """A grey picture as a PNG of so many pixels across and down, without smoothing.

    Raises:
        UserError: when the extra is not installed.
        OSError: when it cannot be written.
    """
    image = _pillow()
    image.fromarray(pixels.numpy()).resize(size, image.Resampling.NEAREST).save(path, format="PNG")


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise UserError("images", "need Pillow", hint="pip install 'pellucid[images]'") from None
    return Image
