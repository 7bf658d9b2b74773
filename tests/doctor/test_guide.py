"""The guide says what is so: its tables, its specs, its workflow."""

import re
import runpy
from pathlib import Path

import faulty
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pellucid as pl
from pellucid.doctor.checks import CHECKS
from pellucid.doctor.spec import ON_PURPOSE

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "doctor.md"
TEXT = GUIDE.read_text(encoding="utf-8")
AGAIN = "run `python docs/guides/doctor_tables.py`"


def table(mark):
    return TEXT.split(f"<!-- {mark} -->\n")[1].split("<!-- end -->")[0]


def test_every_check_and_every_word_is_in_the_guide():
    assert re.findall(r"^\| `([\w.]+)`", table("checks"), re.M) == [check.name for check in CHECKS], AGAIN
    assert re.findall(r"^\| `(\w+)`", table("declare"), re.M) == list(ON_PURPOSE), AGAIN


def test_the_tables_are_those_of_the_code():
    filled = runpy.run_path(str(GUIDE.with_name("doctor_tables.py")))["filled"]
    assert filled(TEXT) == TEXT, AGAIN


def test_statuses_are_all_told():
    for status in pl.doctor.Status:
        assert f"| {status} |" in TEXT


class Cached(faulty.GPT):
    """Called as the guide has it: logits, and the cache where there is one to go on from."""

    def forward(self, ids, cache=0):
        if cache == 0:
            return super().forward(ids)
        return self.step(ids, cache)


def models():
    ids = torch.randint(2, faulty.V, (2, 12))
    ids[:, -1] = faulty.EOS
    vectors = nn.Transformer(faulty.D, 4, 1, 1, 64, batch_first=True)
    return {
        "gpt": (Cached(), {}),
        "encoder": (faulty.BERT(), {}),
        "encoder_decoder": (faulty.Translator(), {}),
        "transformers": (None, {"ids": ids, "keep": torch.ones_like(ids, dtype=torch.bool), "labels": ids}),
        "callable": (faulty.GPT().eval().forward, {}),
        "nn_transformer": (vectors, {}),
    }


@pytest.mark.parametrize("name", re.findall(r"<!-- spec: (\w+) -->", TEXT))
def test_the_specs_of_the_guide_suit_models_like_theirs(name):
    torch.manual_seed(0)
    model, names = models()[name]
    if name == "transformers":
        transformers = pytest.importorskip("transformers")
        special = {"bos_token_id": None, "eos_token_id": faulty.EOS, "pad_token_id": faulty.PAD}
        config = transformers.GPT2Config(vocab_size=faulty.V, n_positions=64, n_embd=32, n_layer=2, n_head=4, **special)
        model = transformers.GPT2LMHeadModel(config)
    code = TEXT.split(f"<!-- spec: {name} -->\n```python\n")[1].split("```")[0]
    code = code.replace("mask=batch.keep", "attention_mask=batch.keep").replace("50257", "61").replace("8000", "61")
    space = {"pl": pl, "F": F, "nn": nn, "model": model, **names}
    exec(code, space)
    report = pl.doctor(model, space["spec"], level="quick")
    assert report.healthy, str(report)
    assert len(report.of("PASS")) >= 5


def test_the_workflow_runs_the_doctor_and_uploads_what_it_found():
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load(table("workflow").strip().removeprefix("```yaml").removesuffix("```"))
    steps = workflow["jobs"]["doctor"]["steps"]
    (run,) = [step["run"] for step in steps if "pellucid doctor" in step.get("run", "")]
    (upload,) = [step for step in steps if "upload-sarif" in step.get("uses", "")]
    written = re.search(r"--sarif (\S+)", run)[1]
    assert upload["with"]["sarif_file"] == written
    assert upload["if"].startswith("always()")
    assert workflow["permissions"]["security-events"] == "write"
