"""The tuned lens: an affine map for each layer, trained to say what the model will say (Belrose et al. 2023).

The logit lens reads early states with a head that was trained for the last one. A small map for each layer takes away
the difference in basis, and leaves what the layer does not yet know.

Shapes: M vectors, D d_model, V vocabulary, L layers, N = L + 1 states of the stream; * any axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.analysis.passes import Progress, unheard
from pellucid.analysis.residual import logit_lens
from pellucid.analysis.streams import written_stream
from pellucid.errors import UserError


class TunedLens(nn.Module):
    """h + A h + b for each state but the last, which is the model's own (Belrose et al. 2023, §3).

    A and b begin at zero, where this is the logit lens. ``logit_lens(model, lens(states))`` reads them.
    """

    def __init__(self, num_layers: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_layers, d_model, d_model))
        self.bias = nn.Parameter(torch.zeros(num_layers, d_model))

    def forward(self, states: Float[Tensor, "N *B D"]) -> Float[Tensor, "N *B D"]:
        self.check(states)
        moved = [self.translate(layer, state) for layer, state in enumerate(states[:-1])]
        return torch.stack([*moved, states[-1]])

    def translate(self, layer: int, state: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """One state in the basis of the last."""
        return state + F.linear(state, self.weight[layer], self.bias[layer])

    def check(self, states: Tensor) -> None:
        """Refuses the states of another model.

        Raises:
            UserError: for another number of states or another width.
        """
        layers, width = self.bias.shape
        if (states.size(0), states.size(-1)) != (layers + 1, width):
            raise UserError("states", f"shape {tuple(states.shape)}", f"{layers + 1} states of {width} features")


def train_tuned_lens(
    model: nn.Module,
    batches: Sequence[Float[Tensor, "N M D"]],
    *,
    steps: int = 250,
    learning_rate: float = 1e-3,
    progress: Progress = unheard,
) -> TunedLens:
    """Trains a lens for each layer by KL(what the model says ‖ what the lens says) (Belrose et al. 2023, §3).

    The model stays as it is. The paper takes SGD with momentum; we take Adam, whose step does not depend on the size
    of the states, and let its rate fall to zero in a straight line, as the paper does.

    Args:
        batches: states of the stream at the positions that count, such as ``residual_stream(model, tape)[:, keep]``;
            taken in turn, one each step.

    Raises:
        UserError: for no batches, a model without a language head, or states of another model.
    """
    if not batches:
        raise UserError("batches", "no batch", "states of the stream on at least one text")
    tower = written_stream(model)[0].tower
    lens = TunedLens(len(tower.blocks), batches[0].size(-1)).to(batches[0])
    optimizer = torch.optim.Adam(lens.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for step in range(steps):
        _learn(model, lens, batches[step % len(batches)])
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        progress(step + 1, steps)
    return lens


def lens_divergence(model: nn.Module, states: Float[Tensor, "N *B D"]) -> Float[Tensor, "N *B"]:
    """KL(what the model says ‖ what is read from each state) in nats, for states as they are or through a lens.

    Raises:
        UserError: for a model without a language head.
    """
    final = _final(model, states)
    return torch.stack([_divergence(model, state, final) for state in states])


def _learn(model: nn.Module, lens: TunedLens, states: Float[Tensor, "N M D"]) -> None:
    """Adds up the gradients of all layers, one layer at a time: the logits of all at once would be large."""
    lens.check(states)
    final = _final(model, states)
    for layer, state in enumerate(
        states[:-1].detach().clone()
    ):  # a clone of what inference mode made can be learned from
        with torch.enable_grad():
            loss = _divergence(model, lens.translate(layer, state), final).mean()
        loss.backward(inputs=[lens.weight, lens.bias])


def _final(model: nn.Module, states: Float[Tensor, "N *B D"]) -> Float[Tensor, "*B V"]:
    with torch.no_grad():
        return logit_lens(model, states[-1]).log_softmax(-1)


def _divergence(model: nn.Module, state: Float[Tensor, "*B D"], final: Float[Tensor, "*B V"]) -> Float[Tensor, "*B"]:
    read = logit_lens(model, state).log_softmax(-1)
    return F.kl_div(read, final, reduction="none", log_target=True).sum(-1)
