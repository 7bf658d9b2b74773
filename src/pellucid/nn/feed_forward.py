"""The position-wise network. Shapes: D d_model, F d_ff."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from pellucid.nn.dropout import dropout
from pellucid.nn.joint import joint
from pellucid.trace import Elementwise, Gated, Linear, Operation, Tapped


class FeedForward(Tapped):
    """down(activation(up(x))) (Vaswani et al. 2017, eq. 2)."""

    def __init__(
        self, d_model: int, d_ff: int, *, activation: Callable[[Tensor], Tensor], bias: bool, dropout: float
    ) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.down = nn.Linear(d_ff, d_model, bias=bias)
        self.activation, self.dropout = activation, dropout

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        hidden = self.hidden(x)
        return self.tap("out", self.down(dropout(hidden, self.dropout, self.training)), hidden)

    def hidden(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T F"]:
        """What the units say."""
        pre = self.tap("pre", self.up(x), x)
        return self.tap("hidden", self.activation(pre), pre)

    def operation(self, name: str) -> Operation:
        match name:
            case "pre":
                return Linear(self.up, self.named("up"))
            case "hidden":
                return Elementwise(self.activation, "activation(pre)")
            case _:
                return Linear(self.down, self.named("down"))


class GatedFeedForward(FeedForward):
    """down(activation(gate(x)) · up(x)) (Shazeer 2020)."""

    def __init__(
        self, d_model: int, d_ff: int, *, activation: Callable[[Tensor], Tensor], bias: bool, dropout: float
    ) -> None:
        super().__init__(d_model, d_ff, activation=activation, bias=bias, dropout=dropout)
        self.gate = nn.Linear(d_model, d_ff, bias=bias)

    def hidden(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T F"]:
        gate, pre = joint(x, (self.gate, self.up))
        gate, pre = self.tap("gate", gate, x), self.tap("pre", pre, x)
        return self.tap("hidden", self.activation(gate) * pre, gate, pre)

    def operation(self, name: str) -> Operation:
        match name:
            case "gate":
                return Linear(self.gate, self.named("gate"))
            case "hidden":
                return Gated(self.activation)
            case _:
                return super().operation(name)
