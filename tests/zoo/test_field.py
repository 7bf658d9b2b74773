"""The doctor in the field: of architectures of ``transformers`` nothing fails but what is explained."""

import pytest

transformers = pytest.importorskip("transformers")

import torch  # noqa: E402

import pellucid as pl  # noqa: E402
from pellucid.doctor.checks import CHECKS  # noqa: E402
from pellucid.doctor.finding import Status  # noqa: E402
from zoo.explained import CAUSES, MEASURED, explained  # noqa: E402
from zoo.field import FIELD, tiny  # noqa: E402

transformers.logging.set_verbosity_error()

QUICK = ("GPT2LMHeadModel", "LlamaForCausalLM", "GPTNeoForCausalLM", "MambaForCausalLM", "BertForMaskedLM",
         "ViTForImageClassification", "BartForConditionalGeneration", "CLIPTextModel")  # fmt: skip
"""One of each kind, by forward passes alone; one of them with a finding that is explained."""

SLOW = (
    *("BloomForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "Gemma2ForCausalLM", "GptOssForCausalLM"),
    *("DeepseekV3ForCausalLM", "BambaForCausalLM", "RwkvForCausalLM", "MiniMaxForCausalLM", "RobertaForCausalLM"),
    *("BartForCausalLM", "AlbertForMaskedLM", "DebertaForMaskedLM", "ModernBertForMaskedLM", "FunnelForMaskedLM"),
    *("ProphetNetForConditionalGeneration", "T5ForConditionalGeneration", "WhisperForConditionalGeneration"),
)  # fmt: skip
"""One of each thing that only some of them do."""

BY_NAME = {architecture.name: architecture for architecture in FIELD}


def marked(architecture):
    marks = (pytest.mark.slow,) if architecture.name in SLOW else (pytest.mark.slow, pytest.mark.sweep)
    return pytest.param(architecture, id=architecture.name, marks=marks)


def examined(architecture, level):
    """Nothing may be found but what is explained; that must be, in the version that the explanations are of."""
    if not architecture.present:
        pytest.skip(f"transformers {transformers.__version__} has no {architecture.name}")
    torch.set_num_threads(1)
    report = pl.doctor(tiny(architecture), level=level)
    found = {finding.check: finding for finding in report.of(Status.FAIL, Status.INCONCLUSIVE)}
    asked = {finding.check for finding in report}
    known = {check for check in explained(architecture.name) if check in asked}
    new = {check: finding.seen for check, finding in found.items() if check not in known}
    assert not new, f"{new}\n{report}"
    assert any(note.startswith(f"kind: {architecture.kind},") for note in report.inferred)
    if transformers.__version__.startswith(f"{MEASURED}."):
        assert not known - found.keys(), "explained, and did not occur"


@pytest.mark.parametrize("name", QUICK)
def test_one_of_each_kind_quickly(name):
    examined(BY_NAME[name], "quick")


@pytest.mark.parametrize("architecture", [marked(one) for one in FIELD])
def test_nothing_fails_but_what_is_explained(architecture):
    examined(architecture, "standard")


def test_the_table_of_what_is_explained_names_what_there_is():
    names, checks = {one.name for one in FIELD}, {check.name for check in CHECKS}
    for cause in CAUSES:
        assert set(cause.architectures) <= names
        assert set(cause.checks) <= checks
        assert cause.kind in ("fault", "limit")


def test_the_field_is_as_wide_as_it_should_be():
    kinds = [one.kind for one in FIELD if not one.name.endswith("Model")]
    assert len({one.name for one in FIELD}) == len(FIELD)
    assert kinds.count("decoder") >= 60
    assert kinds.count("encoder") >= 15
    assert kinds.count("encoder_decoder") >= 10
