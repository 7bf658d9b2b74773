"""Devices to compute on, as their makers describe them or as they are measured."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pellucid.analysis.memory import Dtype
from pellucid.config.files import load_config
from pellucid.config.schema import check_positive
from pellucid.errors import UserError, nearest


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One device.

    Attributes:
        name: what it is called.
        bfloat16, float32: operations a second of matrix products, nothing sparse.
        memory: bytes.
        bandwidth: bytes a second between memory and processor.
        device: whose kernels it runs.
        source: where the figures are from.
    """

    name: str
    bfloat16: float
    float32: float
    memory: float
    bandwidth: float
    device: Literal["cpu", "cuda"] = "cuda"
    source: str = ""

    def __post_init__(self) -> None:
        check_positive(self, "bfloat16", "float32", "memory", "bandwidth")

    def peak(self, dtype: Dtype) -> float:
        """Operations a second of products in a type."""
        return self.bfloat16 if dtype == "bfloat16" else self.float32


_HOPPER = 989e12  # half of the data sheets' 1,979 TFLOP/s, which are with sparsity

MACHINES: Mapping[str, Machine] = {
    "a100": Machine(
        name="A100 80GB SXM",
        bfloat16=312e12,
        float32=19.5e12,
        memory=80e9,
        bandwidth=2.039e12,
        source="NVIDIA A100 Tensor Core GPU data sheet, 2022",
    ),
    "h100": Machine(
        name="H100 SXM",
        bfloat16=_HOPPER,
        float32=67e12,
        memory=80e9,
        bandwidth=3.35e12,
        source="NVIDIA H100 Tensor Core GPU data sheet, 2023",
    ),
    "h200": Machine(
        name="H200 SXM",
        bfloat16=_HOPPER,
        float32=67e12,
        memory=141e9,
        bandwidth=4.8e12,
        source="NVIDIA H200 Tensor Core GPU data sheet, 2024",
    ),
}

THIS = "this"


def machine_of(name: str) -> Machine:
    """A machine: built in, ``this`` (the processor this runs on, measured), or described in a TOML file.

    Raises:
        UserError: for a name that is not known, with the nearest.
        ConfigError: for a file that does not describe a machine.
    """
    if name == THIS:
        return measured()
    if Path(name).suffix in (".toml", ".json"):
        return load_config(name, Machine)
    if name not in MACHINES:
        known = [*MACHINES, THIS]
        raise UserError(f'machine "{name}"', "not known", "one of " + ", ".join(known) + ", or a .toml file that "
                        "describes one", nearest(name, known))  # fmt: skip
    return MACHINES[name]


def measured() -> Machine:
    """This processor, in a few seconds: large products in both types, and how fast memory is read."""
    import torch

    from pellucid.training.card import matrix_peak

    cpu = torch.device("cpu")
    return Machine(
        name=f"this CPU, {torch.get_num_threads()} threads",
        bfloat16=matrix_peak(cpu, "bfloat16"),
        float32=matrix_peak(cpu, "float32"),
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        bandwidth=_bandwidth(),
        device="cpu",
        source="measured: products of 2048³, reading 256 MiB",
    )


def _bandwidth() -> float:
    """Bytes a second of reading what no cache holds: the best of five."""
    import torch

    numbers = torch.ones(1 << 26)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        numbers.sum()
        seconds.append(time.perf_counter() - began)
    return numbers.nbytes / min(seconds)
