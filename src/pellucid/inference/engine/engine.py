"""The engine: a model written with at the speed of the machine, in plain PyTorch.

It implements :class:`~pellucid.inference.writer.Writer`; its plain twin is :class:`~pellucid.inference.writer.Plain`.
Weights are packed once, for products chosen by measurement (``products.py``); layers run over flat positions without
padding (``layers.py``); keys and values stand in buckets and are read as far as they are live (``memory.py``). Where
asking for kernels takes longer than they do, on a GPU, steps are recorded (``graphs.py``).

Shapes: B rows, T new tokens, N positions of all texts, V vocabulary, D d_model.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.errors import UserError
from pellucid.inference.engine.beams import Carried
from pellucid.inference.engine.graphs import Recorder, recorded
from pellucid.inference.engine.head import Head
from pellucid.inference.engine.layers import Layers, joined, numbers_in
from pellucid.inference.engine.looking import Group, Onward, Reading, Whole, contexts, flat, grouped, masks_of
from pellucid.inference.engine.memory import Memory, Places, Source
from pellucid.inference.engine.products import Products, Weights
from pellucid.inference.writer import Go, Ids, Plain, WritingModel, selecting, source_limit
from pellucid.models.encoder_decoder import EncoderDecoder
from pellucid.models.tower import CrossTower
from pellucid.nn.attention import Attention
from pellucid.nn.embedding import TokenFront
from pellucid.nn.positions import check_length


class Engine:
    """A decoder or encoder–decoder, ready to write.

    Where the model is being traced, it steps aside for the model itself and says so.

    Args:
        model: in evaluation mode; its weights are read now, and changes made to them later are not seen.
        weights: the type that they are read in: ``float32`` is exact, ``float16`` nearly so and up to twice as fast
            where few rows wait for their weights, ``bfloat16`` is faster where there are many, ``int8`` everywhere.

    Raises:
        UserError: for ``int8`` or ``float16`` where there is no kernel for it.
    """

    @torch.inference_mode()
    def __init__(self, model: WritingModel, weights: Weights = "float32") -> None:
        self.model, self.weights, self.device = model, weights, model.device
        self.tower = model.decoder if isinstance(model, EncoderDecoder) else model
        self.limit, self.source_limit = self.tower.max_length, source_limit(model)
        products = Products(weights, self.device, numbers_in(model))
        self.layers = Layers(self.tower, products)
        self.head = Head(model.head, products)
        self.recorder = Recorder(self, recorded) if self.device.type == "cuda" else None
        self.encoder, self.sites, self.crossings = None, [], []
        if isinstance(model, EncoderDecoder):
            assert isinstance(self.tower, CrossTower)
            self.encoder = Layers(model.encoder, products) if isinstance(model.encoder.embedding, TokenFront) else None
            self.sites = self.tower.crossings()
            self.crossings = [joined([each.key, each.value], products) for each in self.sites]

    @torch.inference_mode()
    def prefill(self, prompts: Ids, sources: Sequence[Any] | None = None) -> tuple[Float[Tensor, "B V"], Any]:
        """As :meth:`Writer.prefill`; a prompt that is too long for the model's positions is refused."""
        check_length(max(map(len, prompts)), self.limit, "prompt")
        if self._watched():
            return Plain(self.model).prefill(prompts, sources)
        memory = Memory(len(self.layers.layers), len(prompts), None if sources is None else self.read(sources))
        memory.lengths = [len(prompt) for prompt in prompts]
        groups = grouped(memory.lengths)

        def remember(layer: int, group: Group, k: Tensor, v: Tensor) -> None:
            memory.fill(layer, group.rows, k, v)

        tokens, positions = flat(prompts, groups, self.device)
        look = Whole(self.tower, groups, remember)
        read = None if memory.source is None else _ReadingGroups(self.sites, memory, groups)
        states = self.layers(tokens, positions, look, read)
        last = torch.empty(len(prompts), states.size(-1), device=self.device)
        for group in groups:
            ends = states[group.start : group.stop].view(len(group.rows), group.length, -1)[:, -1]
            last[torch.tensor(group.rows, device=self.device)] = ends
        return self.head(last), memory

    @torch.inference_mode()
    def extend(self, tokens: Int[Tensor, "B T"], rows: Any) -> Float[Tensor, "B T V"]:
        """As :meth:`Writer.extend`."""
        if not isinstance(rows, Memory):
            return Plain(self.model).extend(tokens, rows)
        batch, new = tokens.shape
        if self.recorder is not None and new == 1:
            scores = self.recorder(tokens, rows)
            if scores is not None:
                return scores[:, None]
        places = rows.places(new, self.device)
        slots = torch.arange(places.used, device=self.device).expand(batch, -1)
        masks = masks_of(self.tower, places.slots, slots, None, all_seen=new == 1 and places.even)
        states = self.run(tokens, places.slots, rows, masks, places)
        rows.lengths = [length + new for length in rows.lengths]
        return self.head(states).view(batch, new, -1)

    def run(
        self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "B T"], memory: Memory, masks: Any, places: Places
    ) -> Float[Tensor, "N D"]:
        """The last hidden states of new tokens, whose keys and values are filed."""
        look = Onward(self.tower, memory, masks, places)
        read = None if memory.source is None else Reading(self.sites, memory, tokens.size(0))
        return self.layers(tokens.flatten(), positions.flatten(), look, read)

    def read(self, sources: Sequence[Any]) -> Source:
        """What every layer remembers of the sources, each projected once."""
        model = self.model
        if not isinstance(model, EncoderDecoder):
            raise UserError("sources", "a decoder reads none", "an encoder–decoder")
        if self.encoder is None:
            states = model.encode(torch.stack([torch.as_tensor(s, device=self.device) for s in sources])).states
            groups = [Group(0, states.size(1), tuple(range(len(sources))))]
            read = states.flatten(0, 1).float()
        else:
            check_length(max(map(len, sources)), self.source_limit, "source")
            groups = grouped([len(source) for source in sources])
            tokens, positions = flat(sources, groups, self.device)
            read = self.encoder(tokens, positions, Whole(model.encoder, groups, None))
        lengths = [0] * len(sources)
        for group in groups:
            for row in group.rows:
                lengths[row] = group.length
        keys, values = [], []
        for site, project in zip(self.sites, self.crossings, strict=True):
            heads = project(read).view(read.size(0), -1, site.head_dim).chunk(2, dim=1)
            keys.append(_in_rows(site.key_norm(heads[0]), groups, len(sources)))
            values.append(_in_rows(heads[1], groups, len(sources)))
        return Source(keys, values, lengths)

    def carry(self, rows: Any, width: int) -> Go:
        """As :meth:`~pellucid.inference.writer.Carrying.carry`: no keys are moved."""
        if not isinstance(rows, Memory):
            return selecting(self, rows)
        go = Carried(self, rows, width).go
        return torch.inference_mode()(go)

    def _watched(self) -> bool:
        if self.model._tape is None:
            return False
        warnings.warn("the model is being traced: the engine steps aside for the model itself", stacklevel=4)
        return True


class _ReadingGroups:
    """Queries of prompts that are read from their beginning, over their sources."""

    def __init__(self, sites: Sequence[Attention], memory: Memory, groups: Sequence[Group]) -> None:
        assert memory.source is not None
        self.readings = {
            group: Reading(sites, Memory(0, len(group.rows), memory.source.select(group.rows)), len(group.rows))
            for group in groups
        }

    def __call__(self, layer: int, q: Float[Tensor, "N H K"]) -> Float[Tensor, "N HK"]:
        def look(group: Group) -> Tensor:
            found = self.readings[group](layer, q[group.start : group.stop])
            return found.view(len(group.rows), group.length, *q.shape[1:]).transpose(1, 2)

        return contexts(look, q, tuple(self.readings))


def _in_rows(flat: Float[Tensor, "N G K"], groups: Sequence[Group], count: int) -> Float[Tensor, "B G S K"]:
    """Heads of flat positions as rows of slots, zero where a row is shorter."""
    longest = max(group.length for group in groups)
    if len(groups) == 1 and groups[0].rows == tuple(range(count)):
        return groups[0].cut(flat).contiguous()
    rows = flat.new_zeros(count, flat.size(1), longest, flat.size(2))
    for group in groups:
        rows[torch.tensor(group.rows, device=flat.device), :, : group.length] = group.cut(flat)
    return rows
