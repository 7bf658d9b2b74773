"""Pictures of a run: whole, honest and the same every time."""

import ast
import random
import re
import struct
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import pellucid
from pellucid.errors import CheckpointError
from pellucid.training import sheet
from pellucid.training.curves import DPI, LOSS_HEIGHT, PANEL_HEIGHT, WIDTH, Course, _running_median, _thinned, draw
from pellucid.training.watch import MetricsFile, read_records

NASTY = 'a <b> & "c" \x00\x1b[0m \ud83d ]]> <script>'


def course(folder, steps=40, **figures):
    """A run whose validation loss is lowest after step 20."""
    metrics, chance = MetricsFile(folder), random.Random(1)
    for step in range(1, steps + 1):
        loss = 1 + 5 / step + chance.gauss(0, 0.05)
        values = {"loss": loss, "learning_rate": 1e-3 * step, "tokens": 500, "gradient_norm": 1.0, "seconds": 0.1}
        metrics.scalars(step, {**values, **figures})
        if step % 10 == 0:
            metrics.scalars(step, {"validation/loss": 1.2 + abs(step - 20) / 50, "best": step <= 20})
    return metrics


def words(path):
    return [element.text or "" for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_the_pictures_say_what_the_metrics_say(tmp_path):
    course(tmp_path / "run <1> & $2")
    svg, png = draw(tmp_path / "run <1> & $2")
    text = " ".join(words(svg))
    assert "run <1> & $2" in text
    assert "best 1.2 after step 20 (ringed)" in text
    assert "learning" in text
    assert "gradient" in text
    assert "weight" not in text  # nobody has measured updates
    assert "20 k" in text  # tokens above: 40 steps of 500
    size = struct.unpack(">II", png.read_bytes()[16:24])
    assert size == (WIDTH * DPI, int((LOSS_HEIGHT + 2 * PANEL_HEIGHT) * DPI))


def test_the_same_files_give_the_same_bytes_whatever_the_users_settings(tmp_path):
    import matplotlib

    course(tmp_path, update_ratio=1e-3).texts(1, "answers", [("in", "out")])
    first = [path.read_bytes() for path in draw(tmp_path)]
    assert len(first) == 3
    assert b"update" in first[0]
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        assert [path.read_bytes() for path in draw(tmp_path)] == first
        assert matplotlib.rcParams["font.size"] == 30


@pytest.mark.parametrize(
    "lines",
    [
        [{"loss": 2.0}],
        [{"loss": 2.0}, {"loss": 2.0}],
        [{"loss": float("nan"), "gradient_norm": float("inf")}, {"loss": 2.0, "gradient_norm": 0.0}],
        [{"validation/loss": float("inf"), "best": False}, {"loss": 3.0, "tokens": 10}],
        [{"loss": 9.0 / step**3, "learning_rate": 0.0} for step in range(1, 30)],
    ],
)
def test_short_and_odd_runs_are_drawn(tmp_path, lines):
    metrics = MetricsFile(tmp_path)
    for step, values in enumerate(lines, start=1):
        metrics.scalars(step, values)
    svg, _ = draw(tmp_path, log_steps=len(lines) % 2 == 1)
    assert words(svg)


def test_nothing_to_draw(tmp_path):
    with pytest.raises(CheckpointError, match=r"no metrics\.jsonl; expected the folder of a run"):
        draw(tmp_path)
    MetricsFile(tmp_path)
    assert draw(tmp_path) == []


def test_the_best_is_the_one_that_was_saved(tmp_path):
    course(tmp_path)
    read = Course.of(read_records(tmp_path / "metrics.jsonl"))
    assert read.evaluated[read.best] == 20
    assert read.tokens_per_step == 500


def test_training_is_drawn_as_what_validation_tells(tmp_path):
    """Not as what is minimised, which smoothing and a z-loss add to; a line of an earlier version has that alone."""
    metrics = MetricsFile(tmp_path)
    metrics.scalars(1, {"loss": 3.5})
    metrics.scalars(2, {"loss": 3.0, "nats": 2.5})
    assert Course.of(read_records(tmp_path / "metrics.jsonl")).figures["loss"].tolist() == [3.5, 2.5]


def test_no_spike_is_lost():
    x, y = np.arange(50_000.0), np.zeros(50_000)
    y[[7_777, 31_415]] = 5.0, -3.0
    kept_x, kept_y = _thinned(x, y)
    assert len(kept_x) < 3000
    assert {(7_777.0, 5.0), (31_415.0, -3.0)} <= set(zip(kept_x.tolist(), kept_y.tolist(), strict=True))
    assert (np.diff(kept_x) > 0).all()


def test_the_running_median_ignores_spikes_and_begins_with_the_first():
    x = np.arange(400.0)
    y = 100 - x / 10
    y[200] = 1e6
    at, median = _running_median(x, y)
    assert median[0] == 100
    assert median.max() == 100
    middle = (at > 10) & (at < 390) & (abs(at - 200) > 15)
    assert median[middle] == pytest.approx(y[at.astype(int)][middle])


def test_samples_are_escaped_and_ticked(tmp_path):
    metrics = MetricsFile(tmp_path)
    for step in (10, 20):
        metrics.texts(step, "answers", [(NASTY, "right" if step == 20 else "✓ wrong", "right")])
    svg = draw(tmp_path)[-1]
    texts = ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")
    kinds = {element.text: element.get("class") for element in texts}
    assert kinds["✓ right"] == "right"
    assert kinds["✓ wrong"] == "output"  # what a model says of itself does not count
    assert {"input", "step 10", "step 20", "reference"} <= kinds.keys()
    shown = "".join(text for text, kind in kinds.items() if kind == "input")
    assert shown.replace(" ", "") == 'a<b>&"c"��[0m�]]><script>'.replace(" ", "")


def test_a_run_without_samples_has_no_picture_of_those_of_another(tmp_path):
    course(tmp_path).texts(10, "answers", [("in", "out")])
    assert len(draw(tmp_path)) == 3
    course(tmp_path)  # the same folder, anew
    assert len(draw(tmp_path)) == 2
    assert not (tmp_path / sheet.SAMPLES_SVG).exists()


def test_a_long_run_shows_a_few_steps_and_inputs(tmp_path):
    metrics = MetricsFile(tmp_path)
    for step in range(5, 505, 5):
        metrics.texts(step, "answers", [(f"input {i}", "word " * 200) for i in range(sheet.ROWS + 3)])
    texts = words(draw(tmp_path)[-1])
    steps = [text for text in texts if text.startswith("step ")]
    assert len(steps) == sheet.COLUMNS
    assert (steps[0], steps[-1]) == ("step 5", "step 500")
    assert "reference" not in texts
    assert "3 more inputs in samples.jsonl" in texts
    assert max(map(len, texts)) < sheet.CHARACTERS
    assert "…" in texts


@pytest.mark.parametrize(
    "text", ["one two three four five", "a" * 50, "日本語の文章です。" * 4, "  indented\n\n    code", ""]
)
@pytest.mark.parametrize("width", [12, 20])
def test_wrapping_keeps_the_text_and_the_width(text, width):
    lines = sheet._wrap(text, width)
    assert all(sheet._cells(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace("\n", "").replace(" ", "")


def test_heavy_libraries_wait_until_they_are_used():
    package = Path(pellucid.__file__).parent
    for path in package.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:  # not what stands in functions, nor what is for type checkers
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(
                re.match(r"matplotlib|tensorboard|torch\.utils\.tensorboard|wandb", name) for name in names
            ), path
