"""Every experiment runs, says what it found in words made of what it found, and draws it."""

import json

import pytest
from small import LESS, small

from pellucid.errors import UserError
from pellucid.lab import NAMES, find, run
from pellucid.lab.figures import PNG, SVG
from pellucid.lab.report import REPORT, write_report
from pellucid.lab.running import RESULT


def test_all_of_them_are_tested():
    assert set(LESS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_and_is_not_run_twice(name, tmp_path, monkeypatch):
    experiment, heard = small(name, monkeypatch), []
    outcome = run(experiment, tmp_path, seeds=(0, 1), say=heard.append)
    assert outcome.name == name
    assert len(outcome.verdict.said) > 40
    assert any(mark.isdigit() for mark in outcome.verdict.said)
    written = json.loads((tmp_path / RESULT).read_text())
    assert set(written["measured"]) == {"0", "1"}
    assert (tmp_path / SVG).read_text().count("<svg") == 1
    assert (tmp_path / PNG).read_bytes().startswith(b"\x89PNG")
    drawn = (tmp_path / SVG).read_bytes()

    heard.clear()
    again = run(experiment, tmp_path, seeds=(0, 1), say=heard.append)
    assert heard == ["seed 0: measured before", "seed 1: measured before"]
    assert again.as_dict() == json.loads((tmp_path / RESULT).read_text())
    assert (tmp_path / SVG).read_bytes() == drawn


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name):
    experiment = find(name)
    assert experiment.name == name
    assert experiment.question.endswith("?")
    assert any(year in experiment.source for year in map(str, range(1990, 2027)))
    assert 0 < experiment.minutes <= 40


def test_a_seed_more_is_measured_alone(tmp_path, monkeypatch):
    experiment, heard = small("heads", monkeypatch), []
    run(experiment, tmp_path, seeds=(0,), say=heard.append)
    heard.clear()
    outcome = run(experiment, tmp_path, seeds=(0, 1), say=heard.append)
    assert heard[0] == "seed 0: measured before"
    assert all(line.startswith("seed 1") for line in heard[1:])
    assert set(outcome.measured) == {"0", "1"}


def test_seeds_that_are_not_asked_for_again_stay(tmp_path, monkeypatch):
    experiment = small("heads", monkeypatch)
    run(experiment, tmp_path, seeds=(0, 1), say=print)
    outcome = run(experiment, tmp_path, seeds=(0,), say=print)
    assert set(outcome.measured) == set(json.loads((tmp_path / RESULT).read_text())["measured"]) == {"0", "1"}


def test_measuring_again_leaves_the_other_seeds(tmp_path, monkeypatch):
    experiment = small("tied", monkeypatch)
    before = run(experiment, tmp_path, seeds=range(2), say=print)
    again = run(experiment, tmp_path, seeds=[0], force=True, say=print)
    assert again.measured == before.measured  # the same seed gives the same
    assert again.seconds["1"] == before.seconds["1"]
    (tmp_path / "result.json").write_text("torn")
    assert set(run(experiment, tmp_path, seeds=[0], force=True, say=print).measured) == {"0"}
    with pytest.raises(UserError, match='holds the experiment "tied"'):
        run(small("heads", monkeypatch), tmp_path, seeds=[0], force=True, say=print)


def test_what_was_measured_stays_when_a_run_is_broken_off(tmp_path, monkeypatch):
    experiment = small("heads", monkeypatch)

    def stop(line):
        if line.startswith("seed 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(experiment, tmp_path, seeds=(0, 1), say=stop)
    assert set(json.loads((tmp_path / RESULT).read_text())["measured"]) == {"0"}


def test_what_is_no_result_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / RESULT).write_text("{")
    with pytest.raises(UserError, match="no result of an experiment"):
        run(small("heads", monkeypatch), tmp_path, seeds=(0,), say=print)
    assert (tmp_path / RESULT).read_text() == "{"


def test_a_folder_that_cannot_be_is_told_before_anything_is_measured(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    heard = []
    with pytest.raises(OSError, match="file"):
        run(small("heads", monkeypatch), tmp_path / "file" / "heads", seeds=(0,), say=heard.append)
    assert heard == []


def test_another_experiment_is_not_overwritten(tmp_path, monkeypatch):
    run(small("heads", monkeypatch), tmp_path, seeds=(0,), say=print)
    with pytest.raises(UserError, match='holds the experiment "heads"'):
        run(small("recall", monkeypatch), tmp_path, seeds=(0,), say=print)


def test_a_page_of_all(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="holds no experiment"):
        write_report(tmp_path)
    for name in ("heads", "recall"):
        run(small(name, monkeypatch), tmp_path / name, seeds=(0,), say=lambda line: None)
    page = write_report(tmp_path).read_text()
    assert page == (tmp_path / REPORT).read_text()
    assert page.index('id="recall"') < page.index('id="heads"')  # as in the catalogue
    assert page.count("<svg") == 2
    assert not any(text in page for text in ("src=", "<link", "@import", 'href="http'))
    identifiers = [part.split('"')[0] for part in page.split(' id="')[1:]]
    assert len(identifiers) == len(set(identifiers))
