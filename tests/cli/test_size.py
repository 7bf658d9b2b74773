"""``pellucid size`` as a user calls it."""

import json
import os
import subprocess
import sys

import pytest

from pellucid.config import PRESETS


def call(*arguments, check=True):
    done = subprocess.run(
        [sys.executable, "-m", "pellucid", "size", *arguments],
        capture_output=True, text=True, encoding="utf-8", env={**os.environ, "COLUMNS": "100"}, check=False,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, done.stderr
    return done


def test_a_preset_for_people():
    shown = call("gpt2").stdout
    for text in ("124,439,808 parameters published, and counted here; its paper says 117M", "blocks.*.self_attention.key",
                 "cache of a token", "36.9 kB", "checkpointed", "H100 SXM", "minutes", "tokens/s"):  # fmt: skip
        assert text in shown, text


def test_a_preset_for_programs():
    found = json.loads(call("gpt2", "--batch", "4", "--checkpointing", "--json").stdout)
    assert found["parameters"] == sum(part["parameters"] for part in found["parts"]) == 124_439_808
    assert found["work"] == {"rows": 4, "tokens": 1024, "source": 0, "labels": 1024, "raw": 0}
    assert found["flops"]["row"]["training"] == 3 * found["flops"]["row"]["forward"]
    assert found["training_checkpointed"]["peak"] < found["training"]["peak"]
    assert found["cost"]["memory"] == found["training_checkpointed"]["peak"]
    assert found["inference"]["cache_per_token"] == 2 * 12 * 768 * 2


def test_every_preset_is_listed():
    rows = [json.loads(line) for line in call("list", "--json").stdout.splitlines()]
    assert [row["name"] for row in rows] == [*PRESETS, "gpt-4"]
    assert rows[-1]["parameters"] is None
    shown = call().stdout
    assert "gpt-4" in shown
    assert "not published" in shown
    assert "109,482,240  with a pooler, without a head" in shown


def test_a_description():
    given = ("d_model=64", "num_layers=2", "num_heads=4", "d_ff=128", "vocab_size=1000")
    found = json.loads(call("decoder", *given, "--length", "64", "--json").stdout)
    assert json.loads(call(*given, "--length", "64", "--json").stdout)["parameters"] == found["parameters"]
    assert found["about"].endswith("2 layers, d_model 64, 4 heads of 16, d_ff 128")
    assert found["published"] is None


@pytest.mark.parametrize(("arguments", "said"), [
    (("gpt2x",), 'Did you mean "gpt2"?'),
    (("gpt-4",), "not published"),
    (("gpt2", "d_model=100"), "model.stack.d_model: found 100; expected a multiple of attention.num_heads (12)"),
    (("gpt2", "--machine", "b200"), 'machine "b200": not known; expected one of a100, h100, h200, this'),
    (("gpt2", "--dtype", "int4"), '--dtype: found "int4"; expected float32 or bfloat16'),
    (("gpt2", "--utilization", "40"), "--utilization: found 40.0; expected more than 0 and at most 1. 0.4 is 40 %"),
    (("gpt2", "--tokens", "0"), "--tokens: found 0; expected 1 or more"),
])  # fmt: skip
def test_errors(arguments, said):
    done = call(*arguments, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_help_has_an_example():
    assert "pellucid size gpt2" in call("--help").stdout
