"""Training in several processes, as started by ``torchrun``.

Every process makes every batch, which is cheap and needs no agreement, and works on every Nth of its rows. The loss is
divided by the labels of the whole batch and gradients are summed, so that a step is the same whatever the number of
processes; a run can go on with another number. Weights are copied to all (DDP) or split among them (FSDP2).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from pellucid.data.batch import IGNORE, Batch
from pellucid.errors import UserError
from pellucid.models.files import write_whole
from pellucid.training.objectives import Criterion

Found = TypeVar("Found")

BEGUN_BY = ".torchrun"


@dataclass(frozen=True)
class World:
    """The processes that train one model together; by default there is one.

    Attributes:
        rank: the number of this one; the first writes and speaks.
        size: how many there are.
        sharded: weights, gradients and moments are split among them.
        restarted: ``torchrun`` has started this machine's processes again, after one was lost. Machines count apart.
        launchers: the ``torchrun`` of every machine, which stay when they start processes again; none without it.
    """

    rank: int = 0
    size: int = 1
    sharded: bool = False
    restarted: bool = False
    launchers: frozenset[str] = frozenset()

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, batch: Batch) -> Batch:
        """This process's rows of a batch. One that would have none works on a row in which nothing is asked."""
        if self.size == 1:
            return batch
        rows = slice(self.rank, None, self.size) if self.rank < batch.tokens.size(0) else slice(0, 1)
        own = {f.name: value[rows] for f in fields(batch) if (value := getattr(batch, f.name)) is not None}
        part = Batch(**own)
        idle = self.rank >= batch.tokens.size(0)
        return replace(part, labels=torch.full_like(part.labels, IGNORE)) if idle else part

    def spread(self, criterion: Criterion) -> nn.Module:
        """The module that every process calls: its gradients are those of all."""
        if self.size == 1:
            return criterion
        if not self.sharded:
            return DistributedDataParallel(criterion)
        mesh = init_device_mesh(criterion.model.device.type, (self.size,))
        for module in criterion.modules():
            for block in getattr(module, "blocks", ()):
                fully_shard(block, mesh=mesh)
        fully_shard(criterion, mesh=mesh)
        return criterion

    @contextmanager
    def exchange(self, criterion: nn.Module, now: bool) -> Iterator[None]:
        """Inside, a backward pass sums gradients over all processes only if ``now``: once for accumulated batches."""
        if isinstance(criterion, FSDPModule):
            criterion.set_requires_gradient_sync(now)
            yield
        elif isinstance(criterion, DistributedDataParallel) and not now:
            with criterion.no_sync():
                yield
        else:
            yield

    def split_again(self, criterion: nn.Module) -> None:
        """Splits weights again that a forward pass without a backward one has left whole: the optimiser knows only
        the split ones."""
        if isinstance(criterion, FSDPModule):
            criterion.reshard()

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.size > 1:
            moved = value.cuda() if dist.get_backend() == "nccl" else value
            dist.all_reduce(moved)
            return moved
        return value

    def any(self, said: bool) -> bool:
        """Whether any process says so, which then all know."""
        return said if self.size == 1 else bool(self.total(torch.tensor(float(said))).item())

    def told(self, find: Callable[[], Found]) -> Found:
        """What the first process finds, which all are then told.

        Raises:
            UserError: what the first process meets instead, in all of them: none is left waiting for it.
        """
        if self.size == 1:
            return find()
        told: list[Found | UserError | None] = [None]
        if self.leads:
            try:
                told[0] = find()
            except UserError as error:
                told[0] = error
        dist.broadcast_object_list(told, src=0)
        found = told[0]
        if isinstance(found, UserError):
            raise found
        assert found is not None  # the first process has found something
        return found

    def sign(self, folder: Path) -> None:
        """Leaves word in a run folder of who has begun its run."""
        if self.launchers:
            write_whole(folder / BEGUN_BY, lambda path: path.write_text("\n".join(sorted(self.launchers)) + "\n"))

    def has_begun(self, folder: Path) -> bool:
        """Whether the run in a folder was begun by those that started these processes."""
        try:
            signed = (folder / BEGUN_BY).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return False
        return not self.launchers.isdisjoint(signed)

    def seed(self, seed: int, step: int) -> None:
        """Gives each process random numbers of its own, the same whenever this step is done by as many."""
        if self.size > 1:
            torch.manual_seed(((seed * 1_000_003 + step) * 65_537 + self.rank) % 2**64)  # as many as there can be


ALONE = World()


@contextmanager
def joined(device: str, *, sharded: bool = False) -> Iterator[tuple[World, str]]:
    """The world that ``torchrun`` started this process in, and its device; a world of one without it."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield World(), device
        return
    kind = device.split(":")[0]
    if kind == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    store, rank, size = next(rendezvous("env://"))
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", store=_fresh(store), rank=rank, world_size=size)
    try:
        yield World(rank, size, sharded, _restarts() > 0, _launchers(size)), device
    finally:
        dist.destroy_process_group()


def _fresh(store: dist.Store) -> dist.Store:
    """A part of the store that lost processes have not written to.

    ``torchrun`` keeps one store through its restarts, and who finds the address of a lost process there waits for it
    for ever. Machines count their restarts apart, so that several need its way out: see docs/guides/scaling.md.
    """
    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
        return store
    return PrefixStore(f"start {_restarts()}", store)


def _launchers(size: int) -> frozenset[str]:
    """By machine and number of the process: some of them stay, even where a machine is lost."""
    found = [""] * size
    dist.all_gather_object(found, f"{socket.gethostname()} {os.getppid()}")
    return frozenset(found)


def _restarts() -> int:
    """How often ``torchrun`` has started this machine's processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
