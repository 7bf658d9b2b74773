"""One thread for what is small."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """A second thread has nothing to do here but wait, and on a busy machine that takes ten times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
