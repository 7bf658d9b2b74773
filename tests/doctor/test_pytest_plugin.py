"""The plugin as somebody else's tests use it."""

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import faulty
import pytest

import pellucid as pl
from pellucid.doctor.checks import CHECKS
from pellucid.doctor.pytest_plugin import assert_healthy

pytest_plugins = ["pytester"]
NAMED = any(point.name == "pellucid" for point in entry_points(group="pytest11"))
MODELS = Path(faulty.__file__).read_text(encoding="utf-8")


@pytest.fixture
def session(pytester):
    """A folder with models, and pytest run in it."""
    pytester.makepyfile(faulty=MODELS)

    def run(tests, *options):
        pytester.makepyfile(test_it="import pellucid as pl\nimport faulty\n" + tests)
        named = () if NAMED else ("-p", "pellucid.doctor.pytest_plugin")
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", "--strict-markers", *named, *options)

    return run


def test_the_plugin_costs_nothing_at_the_start_of_pytest():
    code = "import sys, pellucid.doctor.pytest_plugin; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_plugin_is_named_in_the_package():
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"pellucid": "pellucid.doctor.pytest_plugin"}


def test_a_healthy_model_is_asserted_and_a_faulty_one_is_told():
    report = assert_healthy(faulty.GPT(), pl.Spec(kind="decoder"), level="quick")
    assert report.healthy
    with pytest.raises(AssertionError) as raised:
        assert_healthy(faulty.GPT("leak"), pl.Spec(kind="decoder"), only=["causal"])
    text = str(raised.value)
    assert "FAIL causal.prefix_invariance" in text
    assert "fix:" in text


def test_each_question_is_an_item_and_one_examination_answers_all(session):
    result = session(
        """
from pellucid.doctor.pytest_plugin import doctor_cases

made = []

def build():
    made.append(1)
    return faulty.GPT("leak"), pl.Spec(kind="decoder")

test_gpt = doctor_cases(build, level="quick")

def test_made_once():
    assert made == [1]
""",
        "-rfs",
        "-v",
    )
    outcomes = result.parseoutcomes()
    asked = [check.name for check in CHECKS if check.level == "quick"]
    assert sum(outcomes.get(each, 0) for each in ("passed", "failed", "skipped")) == len(asked) + 1
    result.stdout.fnmatch_lines(["*test_gpt?causal.prefix_invariance? FAILED*"])
    result.stdout.fnmatch_lines(["*test_gpt?eval.deterministic? PASSED*"])
    result.stdout.fnmatch_lines(["*test_made_once PASSED*"])
    text = result.stdout.str()
    for part in ("cause:", "fix:", "A script that shows it:", "assert moved == 0", "SKIP: there is no source"):
        assert part in text
    assert "pytest_plugin.py" not in text.split("short test summary")[0].replace("plugins:", "")


def test_cases_of_a_healthy_model_pass_and_only_chooses(session):
    result = session(
        """
from pellucid.doctor.pytest_plugin import doctor_cases

test_gpt = doctor_cases(faulty.GPT, pl.Spec(kind="decoder"), only=["causal", "prefix"])
test_model = doctor_cases(faulty.GPT(), pl.Spec(kind="decoder"), only=["causal.prefix_invariance"])

def test_other():
    pass
""",
        "-m",
        "doctor",
    )
    result.assert_outcomes(passed=3, deselected=1)


def test_a_model_that_cannot_be_made_fails_each_case_with_its_own_error(session):
    result = session(
        """
from pellucid.doctor.pytest_plugin import doctor_cases

def build():
    raise RuntimeError("no weights here")

test_gpt = doctor_cases(build, only=["causal", "prefix"])
"""
    )
    result.assert_outcomes(failed=2)
    assert "no weights here" in result.stdout.str()


def test_what_the_doctor_warns_of_is_a_warning(session):
    result = session(
        """
from pellucid.doctor.pytest_plugin import doctor_cases

test_gpt = doctor_cases(lambda: faulty.GPT("no positions"), pl.Spec(kind="decoder", declare={"stochastic"}), only=["eval"])
test_loud = doctor_cases(lambda: faulty.GPT("dropout"), pl.Spec(kind="decoder", declare={"stochastic"}), only=["eval"])
"""
    )
    result.assert_outcomes(passed=2)
    assert re.findall(r"DoctorWarning: GPT: (\S+):", result.stdout.str()) == ["eval.deterministic"]


def test_a_model_of_which_nothing_could_be_asked_is_not_said_to_be_healthy():
    with pytest.raises(AssertionError, match="no question could be answered"):
        assert_healthy(faulty.GPT(), pl.Spec(kind="decoder"), only=["cross.source"])
