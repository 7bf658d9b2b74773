"""The lines that a script begins with make the model again, wherever its file is."""

import subprocess
import sys

import pytest

from pellucid.doctor.opening import opened
from pellucid.errors import UserError

PARTS = "from torch import nn\n\n\nclass GPT(nn.Linear):\n    def __init__(self):\n        super().__init__(2, 3)\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    known = set(sys.modules)
    for path in ("outer", "outer/package", "my models"):
        (tmp_path / path).mkdir()
    (tmp_path / "outer" / "package" / "__init__.py").touch()
    (tmp_path / "outer" / "package" / "parts.py").write_text(PARTS)
    (tmp_path / "outer" / "package" / "inner.py").write_text(
        "from .parts import GPT\n\n\ndef make():\n    return GPT()\n"
    )
    for name in ("my-model.py", "class.py", "my models/2024.py"):
        (tmp_path / name).write_text(PARTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in set(sys.modules) - known:
        if name.split(".")[0] in ("package", "my-model", "class", "2024", "half", "bare"):
            del sys.modules[name]


@pytest.mark.parametrize(
    "target", ["outer/package/inner.py:make", "my-model.py:GPT", "class.py:GPT", "my models/2024.py:GPT"]
)
def test_lines_that_make_the_model_run_by_themselves(folder, target):
    build = opened(target).build
    test = f"import torch\n{build}\nassert model.weight.shape == (3, 2)\nassert 'pellucid' not in __import__('sys').modules"
    (folder / "show.py").write_text(test)
    done = subprocess.run([sys.executable, "show.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{build}\n{done.stderr}"


def test_a_model_that_cannot_be_moved_says_so(folder):
    (folder / "half.py").write_text(
        "from torch import nn\n\nmodel = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device='meta'))\n"
    )
    with pytest.raises(
        UserError, match=r"half.py:model: cannot be moved to cpu: NotImplementedError.*weights are all there"
    ):
        opened("half.py:model")
    (folder / "bare.py").write_text("from torch import nn\n\nmodel = nn.Linear(2, 2, device='meta')\n")
    assert opened("bare.py:model").model.weight.is_meta  # what it lacks is said by whoever examines it
