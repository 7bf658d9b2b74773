"""The demonstrations keep what they promise. Not their time, which is the machine's."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def demo(family, folder):
    command = [sys.executable, "-m", "pellucid", "demo", family, "--out", "run", "--json", "--no-explore"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=True)
    return json.loads(done.stdout)


def healthy(folder):
    command = [sys.executable, "-m", "pellucid", "doctor", "run"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False)
    return done.returncode == 0 or done.stdout


def test_dates(tmp_path):
    figures = demo("encoder-decoder", tmp_path)
    assert healthy(tmp_path) is True
    assert figures["exact_seen"] >= 0.98
    assert figures["examples_seen"] >= 3000
    assert figures["languages"] >= 150
    assert figures["scripts"] >= 12
    assert 0 < figures["exact_unseen"] < figures["exact_seen"]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 2_000_000
    command = [sys.executable, "-m", "pellucid", "translate", "run", "vendredi 13 mars 2071", "12. Juni 1984"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=True)
    assert done.stdout.split() == ["2071-03-13", "1984-06-12"]


@pytest.mark.sweep
def test_decoder(tmp_path):
    figures = demo("decoder", tmp_path)
    assert healthy(tmp_path) is True
    assert figures["bits_per_byte"] < figures["lzma_after_training"] < figures["lzma_alone"]
    assert len(figures["samples"]) == 3


@pytest.mark.sweep
def test_encoder(tmp_path):
    figures = demo("encoder", tmp_path)
    assert healthy(tmp_path) is True
    assert figures["masked_accuracy"] > 5 * figures["most_frequent_token"]
