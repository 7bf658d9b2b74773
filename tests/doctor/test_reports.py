"""A report in every form: what must be in it, what may not, and that others can read it."""

import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import faulty
import pytest
import torch

import pellucid as pl
from pellucid.doctor import report as forms
from pellucid.doctor.checks import CHECKS
from pellucid.doctor.finding import Diagnosis, Finding, Report, Status
from pellucid.doctor.report.parts import explained, figure
from pellucid.doctor.report.picture import characters, strength, svg

NASTY = "<script>alert('x')</script> & \"quoted\" `code` | ]]> \x00 *star* [link](http://x)"


@pytest.fixture(scope="module")
def faults():
    torch.manual_seed(0)
    return pl.doctor(faulty.GPT("leak"), pl.Spec(kind="decoder"), level="standard")


@pytest.fixture(scope="module")
def healthy():
    torch.manual_seed(0)
    return pl.doctor(faulty.GPT(), pl.Spec(kind="decoder"), level="quick")


@pytest.fixture
def nasty():
    findings = [
        Finding(
            check=check, status=status, seen=NASTY, done=NASTY, where=f"{NASTY} (Block, src/gpt.py:12)", cause=NASTY, fix=NASTY,
            references=(NASTY,), evidence={NASTY: NASTY}, enable=NASTY, script=f"# {NASTY!r}\nassert True", build="model = 1",
        )
        for check, status in zip(("kv.parity", "attn.mask", "pos.rope", "influence.map", "init.stats"), Status, strict=True)
    ]  # fmt: skip
    cause = Diagnosis(name=NASTY, why=NASTY, fix=NASTY, explains=("pos.rope",))
    return Report(model=NASTY, level="quick", seed=0, inferred=(NASTY,), findings=tuple(findings), diagnoses=(cause,))


# ---- all forms ---------------------------------------------------------------------------------


def test_every_failure_is_explained_exactly_once(faults):
    told = [finding.check for _, findings in explained(faults) for finding in findings]
    assert sorted(told) == sorted(finding.check for finding in faults.failed)
    assert len(told) >= 2


def test_a_failure_without_a_diagnosis_is_its_own_cause(faults):
    bare = replace(faults, diagnoses=())
    assert len(explained(bare)) == len(faults.failed)


@pytest.mark.parametrize("form", [str, forms.markdown, forms.html])
def test_a_report_alone_says_what_is_needed_to_mend_the_model(faults, form):
    text = " ".join(form(faults).split()).replace("\\", "")
    text = re.sub(r"&[a-z#0-9]+;|[\"'`<>&]", "", text)
    for finding in faults.failed:
        for part in (finding.check, finding.seen, finding.where, finding.fix):
            assert re.sub(r"[\"'`<>&]", "", part) in text


def test_each_failure_stands_once_in_the_text(faults):
    text = str(faults)
    for finding in faults.failed:
        assert len(re.findall(rf"FAIL {re.escape(finding.check)}:", text)) == 1


def test_causes_come_before_all_else(faults):
    for text in (str(faults), forms.markdown(faults), forms.html(faults)):
        first = text.index("causal.prefix_invariance")
        assert first < min(text.index(finding.check) for finding in faults.of(Status.PASS))


def test_a_report_is_the_same_twice(faults):
    torch.manual_seed(5)
    torch.manual_seed(0)
    again = replace(pl.doctor(faulty.GPT("leak"), pl.Spec(kind="decoder"), level="standard"), seconds=faults.seconds)
    for form in (str, forms.markdown, forms.html, forms.junit, lambda r: json.dumps(forms.sarif(r))):
        assert form(again) == form(faults)


def test_figures_are_short_and_words_are_whole():
    assert figure({"a": 0.123456, "b": [True, None, 3]}) == "a: 0.123, b: yes, not known, 3"


# ---- the picture -------------------------------------------------------------------------------


def test_the_picture_has_a_cell_for_each_pair_and_none_is_empty_where_something_moved():
    influence = [[1.0, 0.0], [1e-9, 1e-3]]
    drawn = characters(influence)
    assert [len(row) for row in drawn] == [2, 2]
    assert [[each != "·" for each in row] for row in drawn] == [[True, False], [True, True]]
    picture = ET.fromstring(svg(influence))
    cells = picture.findall("{http://www.w3.org/2000/svg}rect")
    assert [float(cell.get("fill-opacity")) > 0 for cell in cells] == [True, False, True, True]
    assert strength(1e-3) < strength(1e-2) < strength(1.0) == 1.0
    assert strength(float("nan")) == 0.0


def test_what_may_not_be_seen_is_drawn_in_another_colour(faults, healthy):
    def colours(text):
        return set(re.findall(r'fill="(#\w+)" fill-opacity="(?!0\.00)', text))

    assert len(colours(forms.html(faults))) == 2
    assert len(colours(forms.html(healthy))) == 1


# ---- HTML and Markdown -------------------------------------------------------------------------


class Page(HTMLParser):
    VOID = ("meta", "br", "link", "img", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.linked = [], Counter(), []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.linked += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_asks_nothing_of_others(faults):
    text = forms.html(faults)
    page = Page(text)
    assert page.open == []
    assert page.linked == []
    assert page.tags["script"] == page.tags["link"] == page.tags["iframe"] == 0
    assert "url(" not in text
    assert "@import" not in text
    assert page.tags["svg"] == 1
    assert page.tags["details"] == len([finding for finding in faults.failed if finding.script])


def test_names_of_parts_are_no_markup(nasty):
    page = Page(forms.html(nasty))
    assert page.open == []
    assert page.tags["script"] == 0
    text = forms.markdown(nasty)
    outside = re.sub(r"```.*?```", "", text, flags=re.S)
    assert "<script" not in outside
    assert "[link](" not in outside


def test_scripts_are_whole_in_both(faults):
    script = faults["causal.prefix_invariance"].repro().rstrip()
    assert script in forms.markdown(faults)

    class Code(HTMLParser):
        found = ""

        def handle_data(self, data):
            self.found += data

    code = Code()
    code.feed(forms.html(faults))
    assert script in code.found


# ---- SARIF -------------------------------------------------------------------------------------


def valid(log):
    """What the schema of SARIF 2.1.0 requires of the parts that are used here."""
    assert set(log) == {"$schema", "version", "runs"}
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"]
    rules = driver["rules"]
    assert len({rule["id"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["shortDescription"]["text"]
        assert rule["defaultConfiguration"]["level"] in ("none", "note", "warning", "error")
        assert all(isinstance(tag, str) for tag in rule["properties"]["tags"])
    for invocation in run["invocations"]:
        assert isinstance(invocation["executionSuccessful"], bool)
    for result in run["results"]:
        assert result["message"]["text"]
        assert result["level"] in ("none", "note", "warning", "error")
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert all(isinstance(value, str) for value in result["partialFingerprints"].values())
        for location in result.get("locations", ()):
            physical = location["physicalLocation"]
            uri = physical["artifactLocation"]["uri"]
            assert not uri.startswith("/")
            assert re.fullmatch(r"[\w./%~-]+", uri)
            assert physical["region"]["startLine"] >= 1
    json.dumps(log, allow_nan=False)
    return run


def test_sarif_has_a_rule_for_each_check_and_a_result_for_each_failure_and_warning(faults):
    run = valid(forms.sarif(faults, ("src/gpt.py", 3)))
    rules = {rule["id"]: rule["shortDescription"]["text"] for rule in run["tool"]["driver"]["rules"]}
    assert rules == {check.name: check.question for check in CHECKS}
    found = {result["ruleId"]: result for result in run["results"]}
    assert {check for check, result in found.items() if result["level"] == "error"} == {f.check for f in faults.failed}
    assert {check for check, result in found.items() if result["level"] == "warning"} == {
        f.check for f in faults.of(Status.WARN)
    }
    assert all(result["locations"] for result in run["results"]), "code review shows no result without a place"


def test_sarif_puts_a_finding_at_the_line_that_it_names(faults):
    finding = faults["causal.prefix_invariance"]
    path, line = re.search(r"([\w/.]+\.py):(\d+)", finding.where).groups()
    (result,) = [r for r in valid(forms.sarif(faults))["results"] if r["ruleId"] == finding.check]
    physical = result["locations"][0]["physicalLocation"]
    assert (physical["artifactLocation"]["uri"], physical["region"]["startLine"]) == (path, int(line))
    assert path.endswith("faulty.py")


@pytest.mark.parametrize(
    ("where", "place"),
    [
        ("blocks.0 (Block, my models/gpt 1.py:3)", ("my%20models/gpt%201.py", 3)),
        ("elsewhere (Block, parts.py:9)", ("src/made.py", 7)),  # of a file outside only the name is told
    ],
)
def test_sarif_names_only_files_that_are_there(where, place, tmp_path, monkeypatch):
    (tmp_path / "my models").mkdir()
    (tmp_path / "my models" / "gpt 1.py").touch()
    monkeypatch.chdir(tmp_path)
    found = Finding(check="kv.parity", status=Status.FAIL, seen="it differs", where=where)
    run = valid(
        forms.sarif(Report(model="GPT", level="quick", seed=0, inferred=(), findings=(found,)), ("src/made.py", 7))
    )
    physical = run["results"][0]["locations"][0]["physicalLocation"]
    assert (physical["artifactLocation"]["uri"], physical["region"]["startLine"]) == place


def test_what_is_not_finite_is_null_in_json():
    evidence = {"gap": float("inf"), "rows": [1.0, (float("nan"),)]}
    found = Finding(check="kv.parity", status=Status.FAIL, seen="it differs", evidence=evidence)
    told = Report(model="GPT", level="quick", seed=0, inferred=(), findings=(found,)).as_dict()
    assert json.loads(json.dumps(told, allow_nan=False))["findings"][0]["evidence"] == {
        "gap": None,
        "rows": [1.0, [None]],
    }


def test_sarif_of_odd_names_and_of_faults_of_a_batch(nasty):
    run = valid(forms.sarif(nasty))
    assert [result["level"] for result in run["results"]] == ["warning", "error"]
    ids = torch.randint(2, 9, (2, 6))
    found = pl.doctor.batch(pl.doctor.Batch(ids=ids, labels=torch.full_like(ids, -100)), pl.Spec(vocab_size=9))
    valid(forms.sarif(Report(model="batch", level="quick", seed=0, inferred=(), findings=found)))


# ---- JUnit -------------------------------------------------------------------------------------


def test_junit_has_a_case_for_each_check_with_its_answer(faults):
    (suite,) = ET.fromstring(forms.junit(faults)).findall("testsuite")
    cases = {case.get("name"): case for case in suite.findall("testcase")}
    assert list(cases) == [finding.check for finding in faults]
    for finding in faults:
        inside = {child.tag for child in cases[finding.check]}
        assert ("failure" in inside) == (finding.status is Status.FAIL)
        assert ("skipped" in inside) == (finding.status in (Status.SKIP, Status.INCONCLUSIVE))
    assert suite.get("tests") == str(len(cases))
    assert suite.get("failures") == str(len(faults.failed))
    text = cases["causal.prefix_invariance"].find("failure").text
    assert faults["causal.prefix_invariance"].fix in text


def test_junit_of_odd_names_can_be_read(nasty):
    suite = ET.fromstring(forms.junit(nasty)).find("testsuite")
    assert [case.find("failure") is not None for case in suite.findall("testcase")].count(True) == 1
    assert "<script>" in suite.find("testcase/failure").get("message")
