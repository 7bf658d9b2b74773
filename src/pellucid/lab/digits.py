"""Handwritten digits of 8 × 8 pixels that come with scikit-learn (the ``lab`` extra), and a model that reads them.

The images are of the test part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998):
1,797 of them, values from 0 to 16.

Shapes: B images, C labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.config import model as config
from pellucid.config import parts
from pellucid.errors import UserError
from pellucid.lab import keeping
from pellucid.lab.fitting import Rows
from pellucid.models.build import build
from pellucid.models.encoder import Encoder

SIDE, PATCH, BRIGHTEST = 8, 2, 16
PATCHES = (SIDE // PATCH) ** 2
SPLIT = 0  # the random state of scikit-learn's split: the same for every seed of an experiment
ROTATED, SCALED, STRETCHED, SLANTED, MOVED = 0.09, 0.06, 0.04, 0.06, 0.07  # deviations; radians, and shares of a side


class Digits(NamedTuple):
    """Images (B, 1, 8, 8) between -1 and 1, and which digit each shows."""

    images: Float[Tensor, "B 1 8 8"]
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


def _library() -> tuple[Any, Any]:
    try:
        from sklearn import datasets
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise UserError("digits", "need scikit-learn", hint="pip install 'pellucid[lab]'") from None
    return datasets, train_test_split


def save(folder: Path, model: Encoder, example: Float[Tensor, "1 8 8"]) -> None:
    """Writes a folder that `pellucid classify` and `explore` open, and an image to begin with."""
    from PIL import Image

    keeping.save(folder, model)
    grey = ((example[0] + 1) / 2 * 255).round().byte().numpy()
    Image.fromarray(grey).save(folder / "example.png")


def varied(images: Float[Tensor, "B 1 8 8"]) -> Float[Tensor, "B 1 8 8"]:
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


def reader(width: int = 64, layers: int = 3, heads: int = 4, positions: parts.Positions | None = None) -> Encoder:
    """A vision transformer (Dosovitskiy et al. 2021): patches in, a score for each digit out."""
    stack = parts.Stack(
        d_model=width,
        num_layers=layers,
        attention=parts.Attention(num_heads=heads),
        feed_forward=parts.FeedForward(d_ff=2 * width, activation="gelu"),
        positions=positions or parts.Learned(max_length=PATCHES + 1),
        placement="pre",
    )
    front = config.Patches(image_size=SIDE, patch_size=PATCH, channels=1)
    head = config.Classification(labels=tuple("0123456789"), projected=False, dropout=0.0)
    made = build(config.Encoder(front=front, stack=stack, head=head))
    assert isinstance(made, Encoder)
    return made
