"""Where training begins: at random weights, or at those of another run."""

from __future__ import annotations

from dataclasses import dataclass

from pellucid.config.schema import check, check_fraction, check_positive


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """Random weights."""


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """A trained low-rank term beside frozen matrices: W + alpha/rank · B A (Hu et al. 2022, §4.1).

    Attributes:
        rank: r, the rows of A and columns of B.
        alpha: the scale of the term is alpha / rank.
        targets: the last parts of the names of the linear layers that get one; queries and values in the paper.
        dropout: on the input of A.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("query", "value")
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_positive(self, "rank", "alpha")
        check(bool(self.targets), "targets", "none", "the names of linear layers, such as query and value")
        check_fraction(self, "dropout")


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """The weights and the tokenizer of a run; a head that does not fit the new objective begins at random.

    Attributes:
        path: the run folder.
        freeze: patterns of parameter names that are not trained, such as ``embedding.*`` or ``blocks.[01].*``.
        lora: trains low-rank terms and the head, except for a table that it shares with the embedding; everything else
            is frozen.
    """

    path: str
    freeze: tuple[str, ...] = ()
    lora: LoRA | None = None


Start = Scratch | Pretrained
