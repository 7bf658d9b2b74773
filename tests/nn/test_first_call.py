"""The first call of an elementary function is as exact as the second, in processes that have only just begun."""

import os
import subprocess
import sys

import pytest

CHILDREN = 60
SCRIPT = f"""
import os
import torch
import pellucid.nn
from pellucid.nn.first_call import FUNCTIONS

children = []
for _ in range({CHILDREN}):
    if not (child := os.fork()):
        torch.set_num_threads(2)
        x = torch.linspace(0.05, 0.95, 8192)
        wrong = [name for name in FUNCTIONS if not torch.equal(getattr(torch, name)(x), getattr(torch, name)(x))]
        os._exit(len(wrong))
    children.append(os.waitpid(child, 0)[1])
assert not any(children), f"{{sum(map(bool, children))}} of {CHILDREN} processes"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that begin where another stands")
def test_no_thread_gets_a_kernel_of_low_accuracy():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=300)
