"""Devices, time and speed follow from memory, arithmetic and bandwidth."""

from dataclasses import replace

import pytest

import pellucid as pl
from pellucid.analysis.cost import fewest_devices, memory_of_each, training_cost, writing_cost
from pellucid.analysis.machine import MACHINES, Machine, machine_of, measured
from pellucid.analysis.memory import inference_memory
from pellucid.analysis.tower import Means
from pellucid.analysis.work import work_on
from pellucid.config import PRESETS, save_config
from pellucid.errors import ConfigError, UserError

GPT3, LLAMA = PRESETS["gpt3-175b"].model, PRESETS["llama-7b"].model
CHECKPOINTED = Means(checkpointing=True)
H100 = MACHINES["h100"]


def test_one_device_fewer_is_too_few():
    for model, batch in ((GPT3, 64), (LLAMA, 8), (LLAMA, 1)):
        work = work_on(model, batch=batch)
        count = fewest_devices(model, work, CHECKPOINTED, H100)
        assert memory_of_each(model, work, CHECKPOINTED, count) <= H100.memory
        assert memory_of_each(model, work, CHECKPOINTED, count - 1) > H100.memory


def test_where_one_row_is_too_much_no_number_will_do():
    work = work_on(LLAMA, length=1_000_000)
    assert fewest_devices(LLAMA, work, Means(), H100) is None
    cost = training_cost(LLAMA, work, Means(), H100, tokens=1, utilization=0.4)
    assert (cost.devices, cost.seconds, cost.fits) == (None, None, False)


def test_time_is_arithmetic_over_speed():
    work = work_on(LLAMA, length=2048)
    given = {"tokens": 10**12, "utilization": 0.5, "devices": 256}
    cost = training_cost(LLAMA, work, Means(), MACHINES["a100"], **given)
    assert cost.seconds * 256 * 312e12 * 0.5 == pytest.approx(cost.flops)
    assert cost.flops == pytest.approx(6 * 6.74e9 * 10**12, rel=0.1)
    again = training_cost(LLAMA, work, CHECKPOINTED, MACHINES["a100"], **given)
    assert again.seconds / cost.seconds == pytest.approx(4 / 3, rel=0.02)
    short = training_cost(LLAMA, work, Means(), MACHINES["a100"], **{**given, "devices": 1})
    assert not short.fits


def test_writing_reads_every_weight_once():
    work = work_on(LLAMA, length=2048)
    cost = writing_cost(LLAMA, work, "bfloat16", H100)
    weights = (6_738_415_616 - 32_000 * 4096) * 2  # the embedding is looked up; norms are too small to count
    assert cost.bytes_read == pytest.approx(weights + 2048 * 512 * 1024, rel=1e-4)
    assert cost.tokens_per_second == pytest.approx(3.35e12 / cost.bytes_read)
    many = writing_cost(LLAMA, replace(work, rows=64), "bfloat16", H100)
    assert cost.tokens_per_second * 5 < many.tokens_per_second < cost.tokens_per_second * 64
    assert writing_cost(GPT3, work_on(GPT3), "bfloat16", H100).devices == 5
    assert inference_memory(GPT3, work_on(GPT3), "bfloat16").peak > 4 * H100.memory


def test_machines(tmp_path):
    for machine in MACHINES.values():
        assert "data sheet" in machine.source
        assert machine.peak("float32") < machine.peak("bfloat16")
    own = Machine(name="mine", bfloat16=1e12, float32=5e11, memory=8e9, bandwidth=1e11, device="cpu", source="a guess")
    save_config(own, tmp_path / "mine.toml")
    assert machine_of(str(tmp_path / "mine.toml")) == own
    assert pl.size("gpt2", machine=own).means.device == "cpu"
    with pytest.raises(UserError, match='Did you mean "h100"'):
        machine_of("h10")
    (tmp_path / "mine.toml").write_text('name = "mine"\nbfloat16 = 0.0\nfloat32 = 1.0\nmemory = 1.0\nbandwidth = 1.0\n')
    with pytest.raises(ConfigError, match=r"bfloat16: found 0\.0; expected more than 0"):
        machine_of(str(tmp_path / "mine.toml"))


def test_this_machine():
    found = measured()
    assert found.device == "cpu"
    assert min(found.bfloat16, found.float32, found.bandwidth, found.memory) > 1e8
