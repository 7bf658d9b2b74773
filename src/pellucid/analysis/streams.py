"""The residual stream of each tower: what its tensors are called, and the head that reads the last one.

The words are those of Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".

Shapes: I inputs, O outputs of a linear layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from pellucid.errors import UserError
from pellucid.models.decoder import Decoder
from pellucid.models.encoder import Encoder
from pellucid.models.encoder_decoder import EncoderDecoder
from pellucid.models.heads import LanguageHead, MaskedLanguageHead
from pellucid.models.tower import Tower
from pellucid.nn.lora import LoRALinear


@dataclass(frozen=True, eq=False)
class Stream:
    """One tower, and the names of its tensors.

    Attributes:
        prefix: of every name: nothing, ``encoder.`` or ``decoder.``.
        tower: whose stream this is.
    """

    prefix: str
    tower: Tower

    @property
    def num_layers(self) -> int:
        return len(self.tower.blocks)

    @property
    def embedding(self) -> str:
        """The name of what flows into the first block."""
        return f"{self.prefix}embedding.out"

    def block(self, layer: int) -> str:
        """The name of a block."""
        return f"{self.prefix}blocks.{layer}"

    def states(self) -> list[str]:
        """The names of the L + 1 states of the stream: what the first block is given, what each block leaves."""
        return [f"{self.block(0)}.residual_pre", *(f"{self.block(i)}.residual_post" for i in range(self.num_layers))]


def streams_of(model: nn.Module) -> list[Stream]:
    """The streams of a model, the encoder first.

    Raises:
        UserError: for a module that is none of our three families.
    """
    match model:
        case EncoderDecoder():
            return [Stream("encoder.", model.encoder), Stream("decoder.", model.decoder)]
        case Encoder() | Decoder():
            return [Stream("", model)]
        case _:
            families = "an Encoder, a Decoder or an EncoderDecoder"
            raise UserError(type(model).__name__, "has no residual stream that is known by name", families)


def written_stream(model: nn.Module) -> tuple[Stream, LanguageHead | MaskedLanguageHead]:
    """The stream that becomes logits, and the head that reads it.

    Raises:
        UserError: for a model without a language head, whose stream says nothing about tokens.
    """
    stream, head = streams_of(model)[-1], model.head
    if not isinstance(head, LanguageHead | MaskedLanguageHead):
        found = f"a head of kind {type(head).__name__}"
        raise UserError("model.head", found, "a language head, which reads each state as scores of tokens")
    return stream, head


def matrix(layer: nn.Linear) -> Float[Tensor, "O I"]:
    """The one matrix that a linear layer is, a low-rank term added to it."""
    return layer.merged() if isinstance(layer, LoRALinear) else layer.weight
