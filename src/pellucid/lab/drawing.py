"""Training what makes images of codes: see ``pellucid.inference.drawing``.

Shapes: B images.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pellucid.inference.drawing import CODES, Autoencoder

COMMITMENT = 0.25  # how much a state is drawn to its code (van den Oord et al. 2017, eq. 3)
PEAK, LEAST = 3e-3, 1e-4
AWAKE = 50  # steps after which a code that was not used is put where there are states


def train(model: Autoencoder, images: Callable[[], Float[Tensor, "B 1 8 8"]], steps: int) -> float:
    """Trains in place; returns the last mean squared error of a pixel.

    Rounding has no gradient: that of the vectors is given to the states as it is.
    """
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    used = torch.zeros(CODES)
    error = torch.tensor(0.0)
    for step in range(steps):
        wanted = images()
        states = model.states(wanted)
        codes = model.nearest(states)
        vectors = model.codebook[codes]
        error = F.mse_loss(model.drawn(states + (vectors - states).detach()), wanted)
        loss = error + F.mse_loss(vectors, states.detach()) + COMMITMENT * F.mse_loss(states, vectors.detach())
        for group in optimizer.param_groups:
            group["lr"] = LEAST + PEAK * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        used += torch.bincount(codes.flatten(), minlength=CODES)
        if step % AWAKE == AWAKE - 1 and step < 2 * steps // 3:
            _wake(model, used == 0, states.detach().flatten(0, 1))
            used.zero_()
    return error.item()


@torch.no_grad()
def _wake(model: Autoencoder, asleep: Tensor, states: Tensor) -> None:
    model.codebook[asleep] = states[torch.randint(len(states), (int(asleep.sum()),))]
