"""What a part of a model does, found by changing it: patched in from another pass, guessed by its gradient, or removed.

Every function answers with the effect: the metric of the changed pass less that of the pass as it is. A part is a
:class:`Site`, and :func:`sites` lists them. Effects come in the order of the sites: a sweep over L layers and T
positions is ``effects.unflatten(0, (L, T))``.

Shapes: B batch, T positions, S keys, D d_model, H heads, K head_dim, N sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pellucid.analysis.passes import (
    Metric,
    Pass,
    Progress,
    Tensors,
    fits,
    matching,
    measured,
    recorded,
    unheard,
)
from pellucid.analysis.recordings import stands_on_source
from pellucid.errors import UserError
from pellucid.trace import Edit, trace


@dataclass(frozen=True)
class Site:
    """A tensor, or the part of it that belongs to one head, one position or both.

    Attributes:
        name: of the tensor: (B, T, D), or with heads (B, H, T, K) or (B, H, T, S).
        head: ``None`` for all of them.
        position: of the query where there are keys too; ``None`` for all of them.
    """

    name: str
    head: int | None = None
    position: int | None = None

    def part(self, tensor: Tensor) -> Tensor:
        """A view of this part of the tensor."""
        if self.position is not None:
            tensor = tensor.narrow(-2, self.position, 1)
        return tensor if self.head is None else tensor.narrow(1, self.head, 1)

    def putting(self, value: Tensor) -> Edit:
        """An edit that puts this part of a value, which broadcasts to the tensor, in the place of what is there."""

        def edit(tensor: Tensor) -> Tensor:
            changed = tensor.clone()
            self.part(changed).copy_(self.part(value.to(tensor).expand_as(tensor)))
            return changed

        return edit


def sites(tape: Tensors, pattern: str, *, heads: bool = False, positions: bool = False) -> list[Site]:
    """The sites of every tensor that a pattern matches: by name, then by head, then by position.

    ``blocks.*.residual_pre`` with positions, ``*.self_attention.context`` or ``….weights`` with heads.

    Raises:
        UserError: if nothing matches, or for heads of tensors that have none.
    """
    found = []
    for name in matching(tape, pattern):
        tensor = tape[name]
        if heads and tensor.dim() != 4:
            expected = "tensors with heads, such as *.self_attention.context"
            raise UserError(f'"{name}"', f"shape {tuple(tensor.shape)} has no heads", expected)
        every_head = range(tensor.size(1)) if heads else (None,)
        every_position = range(tensor.size(-2)) if positions else (None,)
        found += [Site(name, head, position) for head in every_head for position in every_position]
    return found


def activation_patching(
    model: nn.Module,
    run: Pass,
    clean: Tensors,
    where: Sequence[Site],
    metric: Metric,
    progress: Progress = unheard,
) -> Float[Tensor, "N B"]:
    """What it changes to take one site from another pass (Meng et al. 2022, §2.1; Wang et al. 2023).

    One pass for each site. Normalise by :func:`recovered` for the share of the difference that a site carries.

    Args:
        run: a pass on the corrupted input.
        clean: ``tape.tensors`` of a pass on the clean input, of the same length, in which the sites were watched.

    Raises:
        UserError: for a site that was not recorded or is of another size in the two passes; for a metric that is not
            one number for each row.
    """
    return _effects(model, run, {site.name: recorded(clean, site.name) for site in where}, where, metric, progress)


def attribution_patching(
    model: nn.Module, run: Pass, clean: Tensors, where: Sequence[Site], metric: Metric
) -> Float[Tensor, "N B"]:
    """Activation patching to first order: (clean - corrupted) · ∂metric/∂corrupted (Nanda 2023; Syed et al. 2023, §2).

    One pass forwards and one backwards for all sites. Equal to :func:`activation_patching` where the metric is linear
    in the site, misleading where something saturates: an attention that is already certain, a norm.

    Args:
        run, clean: as for :func:`activation_patching`.

    Raises:
        UserError: as :func:`activation_patching`.
    """
    names = list(dict.fromkeys(site.name for site in where))
    with torch.enable_grad(), trace(model, watch=names, edits=dict.fromkeys(names, _with_gradient)) as tape:
        values = measured(run, metric)
        corrupted = [recorded(tape.tensors, name) for name in names]
        gradients = torch.autograd.grad(values.sum(), corrupted, allow_unused=True, materialize_grads=True)
    change = {}
    for name, tensor, gradient in zip(names, corrupted, gradients, strict=True):
        _check_fit(name, recorded(clean, name), tensor)
        other, own = clean[name].to(tensor), tensor.detach()
        change[name] = torch.where(other == own, 0, other - own) * gradient  # what both hide, -inf, differs by nothing
    return torch.stack([site.part(change[site.name]).flatten(1).sum(1) for site in where])


def ablation(
    model: nn.Module,
    run: Pass,
    where: Sequence[Site],
    metric: Metric,
    *,
    means: Tensors | None = None,
    progress: Progress = unheard,
) -> Float[Tensor, "N B"]:
    """What it changes to take a site away: the importance of a head, with the sign turned (Michel et al. 2019, §3).

    Args:
        where: heads are ``sites(tape, "*.context", heads=True)``.
        means: what stands in its place, from :func:`mean_activations`; zeros when left out, as in the paper. The mean
            leaves what a head says to everything, and takes away only what it says to this input.

    Raises:
        UserError: for a site that has no mean, or a metric that is not one number for each row.
    """
    zeros = {site.name: torch.zeros(()) for site in where}
    values = zeros if means is None else {site.name: recorded(means, site.name) for site in where}
    return _effects(model, run, values, where, metric, progress)


def mean_activations(
    tape: Tensors,
    pattern: str,
    keep: Bool[Tensor, "B T"] | None = None,
    source_keep: Bool[Tensor, "B S"] | None = None,
) -> dict[str, Tensor]:
    """The mean of each tensor over rows and real positions, (1, 1, D) or with heads (1, H, 1, K), for :func:`ablation`.

    Args:
        keep: True where a position is real; in an encoder–decoder of the target, and ``source_keep`` of the source.

    Raises:
        UserError: if nothing matches the pattern, or either is of another shape than the rows and positions.
    """
    kept = {name: source_keep if stands_on_source(name) else keep for name in matching(tape, pattern)}
    return {name: _mean(name, tape[name], real) for name, real in kept.items()}


def recovered(
    effects: Float[Tensor, "N B"], clean: Float[Tensor, " B"], corrupted: Float[Tensor, " B"]
) -> Float[Tensor, "N B"]:
    """Effects as a share of the difference of the two passes: 1 restores the clean metric (Wang et al. 2023)."""
    return effects / (clean - corrupted)


@torch.no_grad()
def _effects(
    model: nn.Module, run: Pass, values: Tensors, where: Sequence[Site], metric: Metric, progress: Progress
) -> Float[Tensor, "N B"]:
    names = list(values)  # watched in every pass, so that attention is computed alike in all of them
    with trace(model, watch=names) as tape:
        before = measured(run, metric)
    for name in names:
        _check_fit(name, values[name], recorded(tape.tensors, name))
    effects = torch.zeros(len(where), before.size(0)).to(before)
    for i, site in enumerate(where):
        with trace(model, watch=names, edits={site.name: site.putting(values[site.name])}):
            effects[i] = measured(run, metric) - before
        progress(i + 1, len(where))
    return effects


def _mean(name: str, tensor: Tensor, keep: Tensor | None) -> Tensor:
    if keep is None:
        return tensor.mean((0, -2), keepdim=True)
    if keep.shape != (tensor.size(0), tensor.size(-2)):
        raise UserError("keep", f"shape {tuple(keep.shape)}", f"({tensor.size(0)}, {tensor.size(-2)}), as in {name}")
    real = keep[..., None] if tensor.dim() == 3 else keep[:, None, :, None]
    return (tensor * real).sum((0, -2), keepdim=True) / keep.sum().clamp(min=1)


def _with_gradient(tensor: Tensor) -> Tensor:
    """A tensor whose gradient can be asked for, also where no weight of the model wants one."""
    return tensor if tensor.requires_grad else tensor.detach().requires_grad_()


def _check_fit(name: str, value: Tensor, tensor: Tensor) -> None:
    if not fits(value, tensor):
        found = f"shape {tuple(value.shape)} put into {tuple(tensor.shape)}"
        raise UserError(f'"{name}"', found, "the same shape", "clean and corrupted input must be of one length")
