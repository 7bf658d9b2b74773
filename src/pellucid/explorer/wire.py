"""How numbers travel: parts of tensors as bytes, and everything else as JSON.

``f32`` is exact, for whatever is printed. Pictures need less: ``sqrt8`` keeps the square root of numbers that are not
negative in a byte, so that small weights stay apart (in a byte of equal steps most weights of a long text are 0), and
``sym8`` spreads a byte over both signs.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from fastapi import Response
from fastapi.responses import StreamingResponse
from torch import Tensor

from pellucid.config.files import dump_json
from pellucid.errors import PellucidError, UserError
from pellucid.explorer.worker import GoneError
from pellucid.inference.seen import Seen

Encoding = Literal["f32", "sqrt8", "sym8"]
MOST_NUMBERS = 1 << 24  # of one answer, 64 MB of float32
FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}  # what a pass held never changes


class Json(Response):
    """JSON in which what is no finite number has its name."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dump_json(content).encode()


def lines(found: AsyncIterator[Any]) -> StreamingResponse:
    """What comes bit by bit: a line of JSON for each. A refusal on the way is one too, as its status has been sent."""

    async def written() -> AsyncIterator[str]:
        try:
            async for line in found:
                yield dump_json(line) + "\n"
        except PellucidError as error:
            yield dump_json({"error": str(error)}) + "\n"
        except GoneError:
            return  # nobody reads on

    return StreamingResponse(written(), media_type="application/x-ndjson")


def part(tensor: Tensor, at: str | None, where: str) -> Tensor:
    """A part of a tensor: for each axis a number, ``:`` or ``from:to``, separated by commas; all of it for ``None``.

    Raises:
        UserError: for a part that the tensor does not have.
    """
    if not at:
        return tensor
    axes = at.split(",")
    if len(axes) != tensor.dim():
        raise UserError(f"{where}[{at}]", f"{len(axes)} axes", f"{tensor.dim()}: the shape is {list(tensor.shape)}")
    try:
        index = tuple(_index(axis.strip(), size) for axis, size in zip(axes, tensor.shape, strict=True))
    except ValueError:
        known = f"for each axis of {list(tensor.shape)} a number, ':' or 'from:to'"
        raise UserError(f"{where}[{at}]", "no such part", known) from None
    return tensor[index]


def _index(axis: str, size: int) -> int | slice:
    if ":" not in axis:
        place = int(axis)
        if not -size <= place < size:
            raise ValueError(axis)
        return place
    start, _, stop = axis.partition(":")
    found = slice(int(start or 0), int(stop or size))
    if not 0 <= found.start <= found.stop <= size:
        raise ValueError(axis)
    return found


def pooled(maps: Tensor, size: int) -> Tensor:
    """(N, T, S) as (N, min(T, size), min(S, size)), the largest number of each tile standing for it."""
    height, width = min(maps.size(-2), size), min(maps.size(-1), size)
    return F.adaptive_max_pool2d(maps.float(), (height, width))


def as_bytes(tensor: Tensor, encoding: str = "f32", *, headers: dict[str, str] = FOREVER) -> Response:
    """A tensor as bytes, little endian; its shape and the number at the end of the scale are in the headers.

    Raises:
        UserError: for an encoding that does not exist, or more than can be shown.
    """
    if encoding not in get_args(Encoding):
        raise UserError("encoding", f'found "{encoding}"', ", ".join(get_args(Encoding)))
    if tensor.numel() > MOST_NUMBERS:
        raise UserError("tensor", f"{tensor.numel():,} numbers", f"at most {MOST_NUMBERS:,}", "ask for a part of it")
    numbers = tensor.detach().float().cpu()
    finite = numbers[numbers.isfinite()]
    least, greatest = (finite.min().item(), finite.max().item()) if finite.numel() else (0.0, 0.0)
    high = max(abs(least), abs(greatest))
    told = {
        "X-Shape": ",".join(map(str, numbers.shape)),
        "X-Low": repr(least),
        "X-High": repr(high if encoding != "f32" else greatest),
        **headers,
    }
    return Response(_encoded(numbers, encoding, high), media_type="application/octet-stream", headers=told)


def pictured(seen: Seen) -> dict[str, Any]:
    """A picture or a spectrogram for the page, and the grid of positions over it."""
    from PIL import Image

    pixels = seen.drawn.cpu().numpy()
    written = BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(written, format="PNG")
    return {
        "sense": seen.sense,
        "png": f"data:image/png;base64,{b64encode(written.getvalue()).decode()}",
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "rows": seen.rows,
        "columns": seen.columns,
        "before": seen.before,
        "seconds": seen.seconds,
    }


def _encoded(numbers: Tensor, encoding: str, high: float) -> bytes:
    if encoding == "f32":
        return numbers.numpy().astype("<f4").tobytes()
    unit = torch.nan_to_num(numbers / (high or 1.0), nan=0.0, posinf=1.0, neginf=0.0 if encoding == "sqrt8" else -1.0)
    if encoding == "sqrt8":
        return (unit.clamp(min=0).sqrt() * 255).round().to(torch.uint8).numpy().tobytes()
    whole: np.ndarray[Any, Any] = (unit * 127).round().to(torch.int8).numpy()
    return whole.tobytes()
