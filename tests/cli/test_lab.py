"""``pellucid lab`` as a user calls it."""

import json

from typer.testing import CliRunner

from pellucid.cli.app import app
from pellucid.errors import UserError
from pellucid.lab import NAMES


def call(*arguments):
    return CliRunner().invoke(app, ["lab", *arguments])


def test_a_list_of_questions():
    for arguments in ((), ("list",)):
        shown = call(*arguments).output
        assert all(name in shown for name in NAMES)
    found = [json.loads(line) for line in call("list", "--json").output.splitlines()]
    assert [one["name"] for one in found] == list(NAMES)
    assert all(one["minutes"] > 0 and one["claim"] for one in found)


def test_what_cannot_be_run_is_said(tmp_path):
    found = call("recal")
    assert isinstance(found.exception, UserError)
    assert "recall" in str(found.exception)
    (tmp_path / "file").write_text("")
    found = call("heads", "--out", str(tmp_path / "file"))
    assert "is a file" in str(found.exception)


def test_one_is_run_and_put_on_a_page(tmp_path, monkeypatch):
    from pellucid.lab.experiments import heads

    for constant, value in {"STEPS": 4, "EVERY": 2, "JUDGED": 4}.items():
        monkeypatch.setattr(heads, constant, value)
    found = call("heads", "--seeds", "1", "--out", str(tmp_path))
    assert found.exit_code == 0, found.output
    assert "Why many heads?" in found.output
    assert "seed 0: 8 heads" in found.output
    assert (tmp_path / "report.html").exists()
    line = call("heads", "--seeds", "1", "--out", str(tmp_path), "--json").output.strip()
    assert json.loads(line)["verdict"]["said"]
