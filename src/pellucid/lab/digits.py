"""Handwritten digits, and a model that reads them.

Those of 8 × 8 pixels come with scikit-learn (the ``lab`` extra): 1,797 of them, the test part of the UCI set "Optical
Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998), values from 0 to 16. Those of 28 × 28 are MNIST (LeCun et
al. 1998), of the catalogue.

Shapes: B images, C labels, Y rows and X columns of pixels.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.config import model as config
from pellucid.config import parts
from pellucid.data.images import write_grey
from pellucid.errors import DataError, UserError
from pellucid.lab import keeping
from pellucid.lab.fitting import Rows
from pellucid.models.build import build
from pellucid.models.encoder import Encoder

SIDE, PATCH, BRIGHTEST = 8, 2, 16
PATCHES = (SIDE // PATCH) ** 2
SPLIT = 0  # the random state of scikit-learn's split: the same for every seed of an experiment
ROTATED, SCALED, STRETCHED, SLANTED, MOVED = 0.09, 0.06, 0.04, 0.06, 0.07  # deviations; radians, and shares of a side


class Digits(NamedTuple):
    """Images (B, 1, Y, X) between -1 and 1, and which digit each shows."""

    images: Float[Tensor, "B 1 Y X"]
    labels: Int[Tensor, "B"]

    def some(self, count: int, *, changed: bool = True) -> Rows:
        """Images drawn at random, a little turned, moved and stretched."""
        chosen = torch.randint(len(self.labels), (count,))
        images = self.images[chosen]
        return Rows(varied(images) if changed else images, self.labels[chosen])


def load() -> tuple[Digits, Digits]:
    """What to train on, and a quarter to test on, as scikit-learn's ``train_test_split`` parts them by default.

    Raises:
        UserError: when scikit-learn is not installed.
    """
    datasets, parted = _library()
    found = datasets.load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] * (2 / BRIGHTEST) - 1
    labels = torch.tensor(found.target)
    train, test = (torch.tensor(rows) for rows in parted(range(len(labels)), random_state=SPLIT))
    return Digits(images[train], labels[train]), Digits(images[test], labels[test])


def load_mnist(folder: Path) -> tuple[Digits, Digits]:
    """The 60,000 images to train on and the 10,000 to test on, from their files.

    Raises:
        DataError: for a file that cannot be read.
    """
    return _of_files(folder, "train"), _of_files(folder, "t10k")


def _of_files(folder: Path, part: str) -> Digits:
    images = _numbers(folder / f"{part}-images-idx3-ubyte.gz", 3).float()[:, None] * (2 / 255) - 1
    return Digits(images, _numbers(folder / f"{part}-labels-idx1-ubyte.gz", 1).long())


def _numbers(path: Path, axes: int) -> Tensor:
    """Bytes behind a header: two zeros, 8 for bytes, the number of axes, and their sizes (LeCun's IDX format)."""
    try:
        content = gzip.decompress(path.read_bytes())
        kind, *shape = struct.unpack(f">{axes + 1}I", content[: 4 * axes + 4])
        if kind != 0x0800 + axes:
            raise ValueError(f"begins with {kind}")
        return torch.frombuffer(bytearray(content[4 * axes + 4 :]), dtype=torch.uint8).view(*shape)
    except (OSError, EOFError, ValueError, RuntimeError, struct.error) as error:
        raise DataError(path, f"cannot be read ({error})", f"IDX, bytes in {axes} axes") from None


def _library() -> tuple[Any, Any]:
    try:
        from sklearn import datasets
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise UserError("digits", "need scikit-learn", hint="pip install 'pellucid[lab]'") from None
    return datasets, train_test_split


def save(folder: Path, model: Encoder, example: Float[Tensor, "1 Y X"]) -> None:
    """Writes a folder that `pellucid classify` and `explore` open, and an image to begin with."""
    keeping.save(folder, model)
    grey = ((example[0] + 1) / 2 * 255).round().byte()
    write_grey(grey, folder / "example.png", size=(grey.size(1), grey.size(0)))


def varied(images: Float[Tensor, "B 1 Y X"]) -> Float[Tensor, "B 1 Y X"]:
    """Each turned, scaled, stretched, slanted and moved a little, as another hand would have written it."""
    turned, slanted, across, down = (
        torch.randn(len(images)) * deviation for deviation in (ROTATED, SLANTED, MOVED, MOVED)
    )
    size = 1 + torch.randn(len(images)) * SCALED
    wide = size * (1 + torch.randn(len(images)) * STRETCHED)
    first = torch.stack([wide * turned.cos(), slanted - size * turned.sin(), across], dim=-1)
    second = torch.stack([wide * turned.sin(), size * turned.cos(), down], dim=-1)
    grid = F.affine_grid(torch.stack([first, second], dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1  # what comes in from outside is background


def reader(
    width: int = 64,
    layers: int = 3,
    heads: int = 4,
    positions: parts.Positions | None = None,
    side: int = SIDE,
    patch: int = PATCH,
) -> Encoder:
    """A vision transformer (Dosovitskiy et al. 2021): patches in, a score for each digit out."""
    stack = parts.Stack(
        d_model=width,
        num_layers=layers,
        attention=parts.Attention(num_heads=heads),
        feed_forward=parts.FeedForward(d_ff=2 * width, activation="gelu"),
        positions=positions or parts.Learned(max_length=(side // patch) ** 2 + 1),
        placement="pre",
    )
    front = config.Patches(image_size=side, patch_size=patch, channels=1)
    head = config.Classification(labels=tuple("0123456789"), projected=False, dropout=0.0)
    made = build(config.Encoder(front=front, stack=stack, head=head))
    assert isinstance(made, Encoder)
    return made
