"""Where the figures of a run go: what is written can be read, a resumed run leaves no trace of what it redoes."""

import json
import sys
import types
from functools import partial

import pytest

from pellucid.errors import CheckpointError, UserError
from pellucid.training.watch import (
    MetricsFile,
    Sinks,
    TensorBoard,
    WeightsAndBiases,
    best_of,
    open_sinks,
    read_records,
    require_wandb,
)

TRAINED = {"loss": 2.5, "learning_rate": 1e-3, "tokens": 768, "gradient_norm": 0.7, "seconds": 0.1}


def write(sink, steps):
    for step in steps:
        sink.scalars(step, {"loss": 1 / step})
        sink.texts(step, "answers", [(f"in {step}", "out", "reference")])


def steps(path):
    return [record["step"] for record in read_records(path)]


def test_a_slash_nests(tmp_path):
    metrics = MetricsFile(tmp_path)
    metrics.scalars(10, TRAINED)
    metrics.scalars(10, {"validation/loss": 2.25, "validation/count": 7, "best": True})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines[0] == json.dumps({"step": 10, **TRAINED})
    assert lines[1] == json.dumps({"step": 10, "validation": {"loss": 2.25, "count": 7}, "best": True})


def test_lines_are_there_at_once(tmp_path):
    write(MetricsFile(tmp_path), [1])  # still open
    assert steps(tmp_path / "metrics.jsonl") == steps(tmp_path / "samples.jsonl") == [1]


def test_resuming_cuts_back(tmp_path):
    write(MetricsFile(tmp_path), [1, 2, 3, 4])
    whole = {name: (tmp_path / name).read_bytes() for name in ("metrics.jsonl", "samples.jsonl")}
    write(MetricsFile(tmp_path, after=2), [3, 4])
    assert whole == {name: (tmp_path / name).read_bytes() for name in whole}


@pytest.mark.parametrize("torn", ['{"step": 2, "lo', '{"step": 2, "validation": {"loss": 1.0}', '{"step": 2, "x": "é'])
def test_a_torn_line_is_dropped(tmp_path, torn):
    write(MetricsFile(tmp_path), [1])
    path = tmp_path / "metrics.jsonl"
    with path.open("ab") as file:
        file.write(torn.encode()[:-1] if torn.endswith("é") else torn.encode())
    assert steps(path) == [1]
    write(MetricsFile(tmp_path, after=2), [3])
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]


def test_a_run_that_begins_anew_forgets(tmp_path):
    write(MetricsFile(tmp_path), [1, 2])
    MetricsFile(tmp_path)
    assert read_records(tmp_path / "metrics.jsonl") == read_records(tmp_path / "samples.jsonl") == []


@pytest.mark.parametrize("text", ["a\nb", "line\u2028separator", "\x85", "\ud83d", '"</svg>', "日本"])
def test_any_text_is_kept(tmp_path, text):
    MetricsFile(tmp_path).texts(3, "answers", [(text, text)])
    MetricsFile(tmp_path, after=3)
    assert read_records(tmp_path / "samples.jsonl") == [
        {"step": 3, "name": "answers", "samples": [{"input": text, "output": text}]}
    ]


class FullDisk:
    def write(self, text):
        pass

    def flush(self):
        raise OSError(28, "No space left on device")

    close = flush


def test_metrics_that_cannot_be_written_are_told(tmp_path):
    metrics = MetricsFile(tmp_path)
    metrics._files["metrics.jsonl"] = FullDisk()
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: cannot be written \(.*No space.*Make room"):
        metrics.scalars(1, TRAINED)
    metrics.close()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot be written"):
        MetricsFile(tmp_path / "file" / "run")


class Broken:
    def __init__(self, folder=None, after=0, *, works_for=0):
        self.left = works_for
        self.closed = 0

    def scalars(self, step, values):
        self.left -= 1
        if self.left < 0:
            raise OSError("the network is gone")

    def texts(self, step, name, samples):
        raise OSError("the network is gone")

    def close(self):
        self.closed += 1
        raise OSError("the network is still gone")


def test_a_failing_sink_is_dropped_with_one_remark(tmp_path):
    broken, remarks, other = Broken(works_for=2), [], Kept()
    with Sinks(MetricsFile(tmp_path), [broken, other], remarks.append) as sinks:
        for step in range(1, 6):
            sinks.scalars(step, TRAINED)
        sinks.texts(5, "answers", [("in", "out")])
    assert len(remarks) == 1
    assert "Broken failed and is left out from here on (the network is gone)" in remarks[0]
    assert broken.closed == 1
    assert steps(tmp_path / "metrics.jsonl") == other.steps == [1, 2, 3, 4, 5]
    assert other.closed


class Kept:
    def __init__(self, folder=None, after=0):
        self.steps, self.closed = [], False

    def scalars(self, step, values):
        self.steps.append(step)

    def texts(self, step, name, samples):
        pass

    def close(self):
        self.closed = True


def test_a_sink_that_cannot_be_opened_is_left_out(tmp_path):
    def refuse(folder, after):
        raise ConnectionError("no route")

    remarks = []
    with open_sinks(tmp_path, openers=[refuse, partial(Broken, works_for=9)], remark=remarks.append) as sinks:
        sinks.scalars(1, TRAINED)
    assert [remark.split()[0] for remark in remarks] == ["refuse", "Broken"]
    assert steps(tmp_path / "metrics.jsonl") == [1]


def test_what_must_work_stops_the_run(tmp_path):
    with pytest.raises(OSError, match="network"):
        Sinks(Broken()).scalars(1, TRAINED)


def curves(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    tags = events.Tags()
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags["scalars"]}
    texts = {
        tag: [event.tensor_proto.string_val[0].decode() for event in events.Tensors(tag)] for tag in tags["tensors"]
    }
    return scalars, texts


def test_tensorboard_reads_back_what_was_written(tmp_path):
    board = TensorBoard(tmp_path)
    for step in (10, 20):
        board.scalars(step, {"loss": 1 / step, "validation/loss": 0.5, "best": True})
    board.texts(20, "answers", [("a|b\n<i>", "*c*", "d")])
    scalars, texts = curves(tmp_path)  # before it is closed: a killed run keeps what it wrote
    assert scalars["loss"] == [(10, pytest.approx(0.1)), (20, pytest.approx(0.05))]
    assert scalars["validation/loss"] == [(10, 0.5), (20, 0.5)]
    (table,) = texts["answers/text_summary"]
    assert "| a&#124;b<br>&#60;i&#62; | &#42;c&#42; | d |" in table
    board.close()


def test_tensorboard_shows_a_resumed_run_once(tmp_path):
    for after, numbers in ((0, (1, 2, 3, 4)), (2, (3, 4, 5))):
        board = TensorBoard(tmp_path, after)
        for step in numbers:
            board.scalars(step, {"loss": float(step + 100 * after)})
        board.close()
    assert curves(tmp_path)[0]["loss"] == [(1, 1), (2, 2), (3, 203), (4, 204), (5, 205)]
    TensorBoard(tmp_path).close()
    assert curves(tmp_path)[0] == {}


def test_a_missing_wandb_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    for attempt in (require_wandb, lambda: open_sinks(tmp_path, openers=[WeightsAndBiases])):
        with pytest.raises(UserError, match=r"wandb is missing.*pip install 'pellucid\[wandb\]'"):
            attempt()


class NobodyLoggedIn(Exception):
    pass


def stand_in(log, error=None):
    """As much of wandb as is called, writing down what it is told."""

    def init(**settings):
        if error:
            raise error
        log.append(settings)
        return types.SimpleNamespace(log=log.append, define_metric=lambda *_, **__: None, finish=lambda: None)

    def table(columns, data):
        return [dict(zip(columns, row, strict=True)) for row in data]

    errors = types.SimpleNamespace(UsageError=NobodyLoggedIn)
    return types.SimpleNamespace(init=init, Table=table, Settings=dict, errors=errors)


def test_wandb_goes_on_under_the_same_id(tmp_path, monkeypatch):
    log = []
    monkeypatch.setitem(sys.modules, "wandb", stand_in(log))
    for after in (0, 2, 0):
        wandb = WeightsAndBiases(tmp_path / "run", after, project="mine", config={"seed": 1})
        wandb.scalars(after + 1, {"loss": 1.0})
        wandb.texts(after + 1, "answers", [("in", "out")])
        wandb.close()
    first, resumed, anew = (entry["id"] for entry in log if "id" in entry)
    assert first == resumed != anew
    assert (log[0]["project"], log[0]["name"], log[0]["config"]) == ("mine", "run", {"seed": 1})
    assert log[1] == {"loss": 1.0, "step": 1}
    assert log[2] == {"answers": [{"input": "in", "output": "out", "reference": ""}], "step": 1}


def test_wandb_without_a_login_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", stand_in([], NobodyLoggedIn("No API key configured.")))
    with pytest.raises(
        UserError, match=r"No API key configured\. Log in with `wandb login`, or set WANDB_MODE=offline"
    ):
        WeightsAndBiases(tmp_path)


@pytest.mark.slow
def test_wandb_itself_works_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for after in (0, 1):
        wandb = WeightsAndBiases(tmp_path, after)
        write(wandb, [after + 1])
        wandb.close()
    (identity,) = (tmp_path / "wandb-id.txt").read_text().split()
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{identity}"))) >= 1


def test_metrics_are_json_whatever_was_measured(tmp_path):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    figures = {"loss": 1.5, "gradient_noise": float("inf"), "validation/loss": float("nan"), "best": False}
    MetricsFile(tmp_path).scalars(1, figures)
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=refuse) == {"step": 1, "loss": 1.5, "best": False}


def test_the_best_is_the_last_that_was_kept_whoever_trained_it(tmp_path):
    assert best_of(tmp_path) is None
    metrics = MetricsFile(tmp_path)
    metrics.scalars(1, TRAINED)
    for step, loss, best in ((10, 2.0, True), (20, 1.5, True), (30, 1.75, False)):
        metrics.scalars(step, {"validation/loss": loss, "validation/count": 7, "best": best})
    assert best_of(tmp_path) == {"step": 20, "loss": 1.5, "count": 7}
    metrics.scalars(30, {"average/loss": 1.25, "best": True})
    assert best_of(tmp_path) == {"step": 30, "loss": 1.25}
