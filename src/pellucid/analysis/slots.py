"""What a cache holds: for each layer its slots, the positions that stand in them, and those that it has let go.

Shapes: G key/value heads, S slots in use, K head_dim.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from pellucid.errors import UserError
from pellucid.nn.cache import KVCache
from pellucid.nn.masks import PADDING

What = Literal["keys", "values", "source_keys", "source_values"]


@dataclass(frozen=True)
class LayerSlots:
    """The memory of one layer.

    Attributes:
        window: how far the layer looks; ``None`` is everywhere.
        slots: how many positions it has room for.
        positions: that stand in its slots, slot by slot; a ring begins again at slot 0 when it is full.
        dropped: how many positions a ring has overwritten.
        source: how many positions of the source its cross-attention keeps; ``None`` without one.
        nbytes: of the keys and values in use.
    """

    layer: int
    window: int | None
    slots: int
    positions: tuple[int, ...]
    dropped: int
    source: int | None
    nbytes: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def slots_of(cache: KVCache, row: int = 0) -> list[LayerSlots]:
    """What one row of a cache holds, layer by layer."""
    found = []
    for layer, drawer in enumerate(cache.drawers):
        ledger = drawer.ledger
        real = ledger.segments[row, : ledger.used] != PADDING
        positions = tuple(ledger.positions[row, : ledger.used][real].tolist())
        source = cache.sources[layer] if cache.sources else None
        kept = [part for part in (drawer.keys, drawer.values) if part is not None]
        nbytes = sum(len(positions) * part[0, 0].nbytes for part in kept)
        if source is not None:
            nbytes += source.keys[row].nbytes + source.values[row].nbytes
        read = None if source is None else source.keys.size(2)
        dropped = int(ledger.lengths[row]) - len(positions)
        found.append(LayerSlots(layer, ledger.window, ledger.slots, positions, dropped, read, nbytes))
    return found


def kept_in(cache: KVCache, layer: int, what: What, row: int = 0) -> Float[Tensor, "G S K"]:
    """The keys or values that one layer keeps, in the order of its slots.

    Raises:
        UserError: for a layer that there is not, or the source of a layer that reads none.
    """
    if not 0 <= layer < len(cache.drawers):
        raise UserError("layer", f"found {layer}", f"0 to {len(cache.drawers) - 1}")
    if what in ("source_keys", "source_values"):
        if not cache.sources:
            raise UserError("what", f'found "{what}"', "keys or values: this model reads no source")
        source = cache.sources[layer]
        return (source.keys if what == "source_keys" else source.values)[row]
    drawer = cache.drawers[layer]
    kept = drawer.keys if what == "keys" else drawer.values
    assert kept is not None  # a cache is asked after it was used
    return kept[row, : drawer.ledger.used].transpose(0, 1)
