"""Seeds for every test, its heap as it is, Ctrl-C for those of it; runtime shape checks where asked for."""

import os
import signal

import pytest

if os.environ.get("PELLUCID_CHECK_SHAPES"):
    # Every jaxtyping annotation of these packages becomes a check; nothing may be compiled in such a process.
    from jaxtyping import install_import_hook

    install_import_hook(["pellucid.nn", "pellucid.models"], "beartype.beartype")

import torch

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))  # results must not depend on the machine

# A shell ignores Ctrl-C in what it starts in the background, and so does whatever that starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def small_pages():
    """Commands that are tried in this process do not change its heap for all tests after them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pellucid.nn.memory.huge_pages", lambda: False)
        yield


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
