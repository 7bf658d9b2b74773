"""How far the residual stream of one pass is from that of another, state by state and position by position.

Shapes: N states, T positions, D d_model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.analysis.passes import Tensors, recorded
from pellucid.errors import UserError


def shift(changed: Tensors, plain: Tensors, states: Sequence[str]) -> Float[Tensor, "N T"]:
    """‖changed - plain‖ / ‖plain‖ of each state at each position; 0 is untouched, 1 as far off as it is long.

    Args:
        states: names of tensors (1, T, D), such as :meth:`pellucid.analysis.streams.Stream.states` lists.

    Raises:
        UserError: for passes of unequal length, or a state that one of them does not have.
    """
    rows = []
    for name in states:
        a, b = (recorded(tensors, name)[0].double() for tensors in (changed, plain))
        if a.shape != b.shape:
            raise UserError(name, f"of shape {list(a.shape)} in one pass", f"{list(b.shape)}, as in the other")
        length = b.norm(dim=-1)
        distance = (a - b).norm(dim=-1)
        # A state of length 0 that has moved is infinitely far off; one that has not is where it was.
        rows.append(torch.where(distance == 0, 0.0, distance / length))
    return torch.stack(rows).float()
