"""Seeds for every test; runtime shape checks where asked for."""

import os

import pytest

if os.environ.get("PELLUCID_CHECK_SHAPES"):
    # Every jaxtyping annotation of these packages becomes a check; nothing may be compiled in such a process.
    from jaxtyping import install_import_hook

    install_import_hook(["pellucid.nn", "pellucid.models"], "beartype.beartype")

import torch

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))  # results must not depend on the machine


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
