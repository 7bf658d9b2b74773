"""What is released: a wheel and an sdist that hold all they need, and a wheel that works without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import pellucid

ROOT = Path(__file__).parents[1]
NO_NETWORK = """
import socket, sys
def refuse(self, address, *rest):
    raise OSError(f"no network here, asked for {address}")
socket.socket.connect = socket.socket.connect_ex = refuse
from pellucid.cli.app import main
main()
"""


def test_versions_agree():
    told = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.+)$", told, re.MULTILINE)[1] == pellucid.__version__
    changes = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert pellucid.__version__ in changes


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a wheel and an sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return folder


@pytest.mark.slow
def test_the_sdist_holds_what_a_wheel_is_made_of(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ["src/pellucid/explorer/static/index.html", "web/src/main.ts", "recipes/snips.toml", "hatch_build.py"]
    wanted += ["examples/transformer_in_100_lines.py", "docs/course/06-the-mask.py", "SECURITY.md", "CITATION.cff"]
    assert not [name for name in wanted if name not in names]
    assert not [name for name in names if "node_modules" in name or name.startswith(("build/", "runs/"))]


@pytest.mark.slow
def test_the_wheel_works_without_a_network(built, tmp_path):
    """Installed apart from this tree, with its dependencies: commands of every kind on what comes along."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "pellucid/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "docs/"))]
    home = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(home)]
    subprocess.run([*install, str(wheel)], check=True, timeout=120)
    model = home / "pellucid" / "explorer" / "model"

    def call(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(home)}
        done = subprocess.run([sys.executable, "-c", NO_NETWORK, *arguments], cwd=tmp_path, env=environment,
                              capture_output=True, text=True, timeout=300)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert call("--version").strip() == f"pellucid {pellucid.__version__}"
    where = [sys.executable, "-c", "import pellucid; print(pellucid.__file__)"]
    environment = {**os.environ, "PYTHONPATH": str(home)}
    assert str(home) in subprocess.run(where, env=environment, capture_output=True, text=True, check=True).stdout
    assert call("translate", str(model), "3 March 2021").strip() == "2021-03-03"
    assert "healthy" in call("doctor", str(model), "--level", "quick")
    assert "cross_attention.weights" in call(
        "trace", str(model), "3 March 2021", "--watch", "*.cross_attention.weights"
    )
    assert "recall" in call("lab")
    call("explore", str(model), "--text", "3 March 2021", "--export", "page.html")
    assert (tmp_path / "page.html").stat().st_size > 100_000
    text = tmp_path / "notes.txt"
    text.write_text("the cat sat on the mat\n" * 300)
    small = ["model.stack.d_model=16", "model.stack.num_layers=1", "model.stack.attention.num_heads=2"]
    call("train", "decoder", "--text", str(text), "--out", "runs/notes", *small, "training.steps=5")
    assert call("generate", "runs/notes", "the", "--tokens", "5").startswith("the")


def test_what_is_promised_is_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert (ROOT / "LICENSE").is_file()
    assert (ROOT / "SECURITY.md").is_file()
    assert project["dynamic"] == ["version"]
