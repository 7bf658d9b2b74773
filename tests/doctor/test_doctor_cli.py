"""`pellucid doctor` as a user calls it."""

import json
import os
import re
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ET
from pathlib import Path

import faulty
import pytest
import torch

from pellucid.cli import app
from pellucid.config import model as config
from pellucid.config.defaults import fitted
from pellucid.config.run import Causal, Characters, NoData, ParallelFiles, Run, SequenceToSequence, TextFiles
from pellucid.data import Tokenizer
from pellucid.models.build import build
from pellucid.models.checkpoint import save_run

MODELS = Path(faulty.__file__).read_text(encoding="utf-8")
OTHERS = """
import pellucid as pl
from faulty import BERT, GPT

SPEC = pl.Spec(kind="decoder", declare={"no_left_pad"})
WRONG = 5
model = GPT()
both = (GPT(), pl.Spec(kind="decoder", eos_id=1))


def make():
    return GPT("leak")


def with_spec():
    return GPT(), SPEC


def logits(ids):
    return model.eval()(ids)


def nothing():
    pass


def talks():
    print("loading the weights")
    model, run = GPT(), GPT.forward
    model.forward = lambda ids: print("reading") or run(model, ids)
    return model


def broken():
    raise ValueError("the weights are gone")


def leaves():
    raise SystemExit(3)


def a_class():
    return GPT


class Needs(GPT):
    def __init__(self, width, depth, *, dropout=0.1):
        super().__init__()


class Deaf(GPT):
    def forward(self, ids, targets=None):
        raise RuntimeError("no ears")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doctor")
    (folder / "faulty.py").write_text(MODELS)
    (folder / "others.py").write_text(OTHERS)
    (folder / "unfinished.py").write_text("def make(:\n")
    (folder / "needs.py").write_text("import a_package_that_is_nowhere\n")
    (folder / "script.py").write_text("import sys\n\nsys.exit()\n")
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text("")
    (folder / "package" / "inner.py").write_text("from .parts import GPT\n\n\ndef make():\n    return GPT()\n")
    (folder / "package" / "parts.py").write_text("from faulty import GPT\n")
    return folder


@pytest.fixture
def doctor(folder, monkeypatch, capsys):
    """Calls the command in that folder; what it printed."""
    known = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(*arguments, code=0):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["pellucid", "doctor", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            app.main()
        told = capsys.readouterr()
        assert left.value.code == code, told
        assert "Traceback" not in told.err
        return told

    yield call
    for name in set(sys.modules) - known:
        if name.split(".")[0] in ("others", "package", "unfinished", "needs", "script"):
            del sys.modules[name]


QUICK = ("--level", "quick", "--kind", "decoder")
HEALTHY = (
    "faulty.py:GPT",
    "others:model",
    "others:both",
    "others:with_spec",
    "package.inner:make",
    "package/inner.py:make",
)


@pytest.mark.parametrize("target", HEALTHY)
def test_whatever_names_a_healthy_model_is_healthy(doctor, target):
    told = doctor(target, *QUICK, "--only", "causal", "--only", "prefix")
    assert told.out.startswith("GPT: healthy")
    assert told.err == ""


def test_a_function_of_ids_is_a_model_itself(doctor):
    told = doctor("others:logits", *QUICK, "--vocab-size", faulty.V)
    assert told.out.startswith("logits: healthy")


def test_a_faulty_model_is_told_and_the_exit_code_is_1(doctor):
    told = doctor("others:make", *QUICK, code=1)
    assert "FAIL causal.prefix_invariance" in told.out
    assert "\x1b[" not in told.out, "colours are for terminals"
    assert re.search(r"where: blocks\.0\S* \(\w+, faulty\.py:\d+\)", told.out)


def test_json_stays_json_where_the_code_prints(doctor):
    told = doctor("others:talks", *QUICK, "--vocab-size", faulty.V, "--only", "causal", "--json")
    assert json.loads(told.out)["healthy"]
    assert told.err.startswith("loading the weights\nreading\n")


def test_json_is_one_object_and_the_same_twice(doctor):
    found = [json.loads(doctor("others:make", *QUICK, "--json", code=1).out) for _ in range(2)]
    for each in found:
        each.pop("seconds")
    assert found[0] == found[1]
    assert found[0]["healthy"] is False
    assert found[0]["level"] == "quick"
    assert any(finding["repro"] for finding in found[0]["findings"])


def test_all_that_it_writes(doctor, folder):
    names = {
        "sarif": "out/doctor.sarif",
        "junit": "out/doctor.xml",
        "markdown": "out/doctor.md",
        "html": "out/doctor.html",
    }
    files = [part for name, path in names.items() for part in (f"--{name}", path)]
    doctor("others:make", *QUICK, *files, "--repro", "out/repros", code=1)
    log = json.loads((folder / names["sarif"]).read_text())
    places = [result["locations"][0]["physicalLocation"] for result in log["runs"][0]["results"]]
    assert places
    assert all((folder / place["artifactLocation"]["uri"]).is_file() for place in places)
    assert ET.parse(folder / names["junit"]).getroot().get("failures") != "0"
    assert "<svg" in (folder / names["html"]).read_text()
    assert "# GPT: not healthy" in (folder / names["markdown"]).read_text()
    failed = {result["ruleId"] for result in log["runs"][0]["results"] if result["level"] == "error"}
    assert {path.stem for path in (folder / "out" / "repros").iterdir()} == failed


def test_a_script_of_the_command_stands_alone(doctor, folder):
    doctor("others.py:make", *QUICK, "--only", "causal", "--repro", "alone", code=1)
    # Everything of ours is out of reach: what the script imports is torch and the model.
    (folder / "alone" / "pellucid.py").write_text("class Spec:\n    def __init__(self, **said):\n        pass\n")
    script = folder / "alone" / "causal.prefix_invariance.py"
    run = subprocess.run(
        [sys.executable, script.relative_to(folder)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "AssertionError: outputs before position" in run.stderr
    healthy = script.read_text().replace("make()", 'make(); model.__class__ is not None; model = type(model)("")')
    (folder / "alone" / "healthy.py").write_text(healthy)
    run = subprocess.run([sys.executable, "alone/healthy.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


MISUSE = {
    "nowhere": "no such folder",
    "nowhere.py:GPT": "no such file",
    "faulty.py": "names no class or function",
    "missing.py": "no such file",
    "nowhere:make": 'there is no module "nowhere"',
    "needs.py:make": "a_package_that_is_nowhere",
    "needs:make": "a_package_that_is_nowhere",
    "unfinished.py:make": "SyntaxError",
    "script.py:make": "importing it raised SystemExit (script.py, line 3). Put what it runs under 'if __name__",
    "script:make": "or name a module without it",
    "others:leaves": "making the model raised SystemExit: 3 (others.py, line",
    "faulty.py:GTP": 'Did you mean "GPT"?',
    "others:Needs": "needs width, depth",
    "others:nothing": "gives NoneType, which is no model",
    "others:a_class": "gives the class GPT, which is no model",
    "others:WRONG": "gives int, which is no model",
    "others:broken": "ValueError: the weights are gone (others.py, line",
    "others:Deaf": "no ears",
    ":make": "names no module",
}


@pytest.mark.parametrize("target", MISUSE)
def test_what_cannot_be_examined_is_one_paragraph_and_exit_code_2(doctor, target):
    told = doctor(target, "--level", "quick", code=2)
    assert told.out == ""
    assert told.err.startswith("pellucid: ")
    assert len(told.err.strip().splitlines()) == 1
    assert MISUSE[target] in told.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--kind", "decodre"], 'Did you mean "decoder"?'),
        (["--declare", "no_left_padding"], 'Did you mean "no_left_pad"?'),
        (["--only", "causal.prefix"], "causal.prefix_invariance"),
        (["--level", "fast"], "quick or standard or full"),
        (["--spec", "others:model"], "a pellucid.Spec"),
        (["--spec", "SPEC"], "package.module:SPEC"),
        (["--spec", "others:SPCE"], 'Did you mean "SPEC"?'),
        (["--device", "tpu"], "cpu, cuda, mps or auto"),
        (["--vocab-size", "0"], "2 or more"),
        (["--window", "-1"], "0 is everywhere"),
    ],
)
def test_options_that_are_wrong(doctor, options, said):
    assert said in doctor("faulty.py:GPT", *options, code=2).err


def test_debug_shows_where_it_was_raised(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["pellucid", "doctor", "others:broken", "--debug"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(Exception, match="the weights are gone") as raised:
        app.main()
    assert isinstance(raised.value.__cause__, ValueError)


def test_a_spec_of_ones_own_and_options_over_it(doctor):
    only = ("--level", "quick", "--only", "pad", "--json")
    told = json.loads(doctor("faulty.py:GPT", "--spec", "others.py:SPEC", *only).out)
    assert any("decoder" in note for note in told["inferred"]) is False, "kind was said"
    told = json.loads(doctor("faulty.py:BERT", "--spec", "others:SPEC", "--kind", "encoder", *only).out)
    assert told["findings"][0]["status"] == "PASS"


def test_help_has_an_example(doctor):
    told = doctor("--help")
    assert "pellucid doctor" in told.out
    assert "Exit code" in told.out


# ---- runs --------------------------------------------------------------------------------------


TINY = textwrap.dedent(
    """
    the cat sees the hat
    the dog eats the hay
    the cow has the ball
    """
).strip()


@pytest.fixture(scope="module")
def runs(folder):
    torch.manual_seed(0)
    (folder / "text.txt").write_text(TINY * 20)
    (folder / "source.txt").write_text(TINY)
    (folder / "target.txt").write_text(TINY.upper())
    tokenizer = Tokenizer.train(Characters(), [TINY, TINY.upper()])
    from families import STACK

    front = config.Tokens(vocab_size=tokenizer.vocab_size)
    decoder = config.Decoder(front=front, stack=STACK)
    pair = config.EncoderDecoder(source=front, encoder=STACK, target=front, decoder=STACK)
    text = str(folder / "text.txt")
    both = {"source": str(folder / "source.txt"), "target": str(folder / "target.txt")}
    files = ParallelFiles(**both, validation_source=both["source"], validation_target=both["target"])
    described = {
        "decoder": Run(
            model=decoder, data=TextFiles(train=(text,), validation=(text,)), tokenizer=Characters(),
            objective=fitted(Causal(), decoder),
        ),
        "pair": Run(model=pair, data=files, tokenizer=Characters(), objective=fitted(SequenceToSequence(), pair)),
        "dataless": Run(model=decoder, data=NoData(), tokenizer=Characters(), objective=fitted(Causal(), decoder)),
    }  # fmt: skip
    for name, run in described.items():
        save_run(folder / name, build(run.model), tokenizer, run)
    return folder


@pytest.mark.parametrize("name", ["decoder", "pair", "dataless"])
def test_a_run_is_healthy_and_its_data_are_looked_at(doctor, runs, name):
    told = json.loads(doctor(name, "--level", "quick", "--json").out)
    findings = {finding["check"]: finding for finding in told["findings"]}
    assert findings["data.labels"]["status"] == ("SKIP" if name == "dataless" else "PASS")
    assert findings["loss.init"]["status"] != "FAIL"
    assert findings["kv.parity"]["status"] == "PASS"


def test_a_folder_of_another_library(doctor, folder):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    common = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    neox = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**common, intermediate_size=64))
    neox.save_pretrained(folder / "neox")
    told = json.loads(doctor("neox", "--level", "quick", "--only", "causal", "--only", "kv", "--json").out)
    assert told["model"] == "GPTNeoXForCausalLM"
    assert [finding["status"] for finding in told["findings"]] == ["PASS", "PASS"]


@pytest.mark.parametrize("damage", ["torn", "unweighted", "pickled"])
def test_weights_that_another_library_cannot_load_are_told(doctor, folder, damage):
    transformers = pytest.importorskip("transformers")
    common = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    neox = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**common, intermediate_size=64))
    neox.save_pretrained(folder / damage)
    weights = folder / damage / "model.safetensors"
    whole = weights.read_bytes()
    weights.unlink()
    if damage == "torn":
        weights.write_bytes(whole[:100])
    if damage == "pickled":
        torch.save(neox.state_dict(), folder / damage / "pytorch_model.bin")
    told = doctor(damage, code=2)
    assert f"pellucid: {damage}: transformers could not load it: " in told.err
    assert "expected whole files in safetensors" in told.err


def test_colours_and_the_question_on_a_terminal(folder):
    if not hasattr(os, "openpty"):
        pytest.skip("no terminals here")
    main, other = os.openpty()
    command = [sys.executable, "-m", "pellucid", "doctor", "faulty.py:GPT", *QUICK, "--only", "causal"]
    with subprocess.Popen(
        command, cwd=folder, stdout=other, stderr=other, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(other)
        shown = b""
        try:
            while part := os.read(main, 4096):
                shown += part
        except OSError:  # the other side is closed
            pass
        assert process.wait() == 0
    os.close(main)
    text = shown.decode()
    assert "\x1b[32m" in text
    assert "Is the future hidden from every position?" in text
