"""What a model writes while it learns: inputs that it can read, and no end of a run where it cannot."""

from dataclasses import replace

import pytest
from test_resume import session

from pellucid.config import parts
from pellucid.config.run import SpanCorruption, TextFiles
from pellucid.errors import ConfigError, UserError
from pellucid.training.fit import Remark, fit
from pellucid.training.loop import Step
from pellucid.training.samples import _gapped, samples
from pellucid.training.session import prepare


def with_positions(family, count, **changes):
    """A run whose model has learned so many positions."""
    before = session(family)
    names = ("encoder", "decoder") if family == "encoder_decoder" else ("stack",)
    fronts = ("source", "target") if family == "encoder_decoder" else ("front",)
    model = before.run.model
    towers = {name: replace(getattr(model, name), positions=parts.Learned(max_length=count)) for name in names}
    model = replace(model, **towers, **{name: replace(getattr(model, name), vocab_size=0) for name in fronts})
    corpus = session("decoder").corpus if "objective" in changes else before.corpus
    return prepare(replace(before.run, model=model, **changes), corpus=corpus)


def test_a_prompt_is_no_longer_than_the_positions():
    one = with_positions("decoder", 16)
    shown = samples(one)
    assert len(shown) == 2
    for (prompt, _), text in zip(shown, one.corpus.validation, strict=True):
        assert text.startswith(prompt)
        assert 0 < len(one.tokenizer.encode(prompt)) < 16


def test_a_source_is_cut_as_it_is_in_training():
    one = with_positions("encoder_decoder", 40)
    shown = samples(one)
    assert len(shown) == 2
    for (source, _, target), pair in zip(shown, one.corpus.validation, strict=True):
        assert pair.source.startswith(source)
        assert 0 < len(one.tokenizer.source(one.tokenizer.encode(source))) <= 40
        assert target == pair.target


@pytest.mark.parametrize(("positions", "count"), [(16, 0), (300, 2)])
def test_a_gap_is_shown_where_the_text_around_it_can_be_read(positions, count):
    spans = {"objective": SpanCorruption(length=16), "data": TextFiles(train=("x",))}
    assert len(samples(with_positions("encoder_decoder", positions, **spans))) == count


def test_spans_that_would_make_a_text_longer_than_the_positions_are_refused():
    spans = {"objective": SpanCorruption(length=16, span=1), "data": TextFiles(train=("x",))}
    with pytest.raises(ConfigError, match=r"length: found 16, of which 17 tokens are read; expected at most 16"):
        with_positions("encoder_decoder", 16, **spans)
    with_positions("encoder_decoder", 17, **spans)


def test_a_text_with_a_gap_of_its_own_is_left_out():
    words = ["word"] * 12
    text, missing = _gapped(" ".join(words))
    assert (text.count("<mask>"), missing) == (1, "word word")
    assert _gapped(" ".join([*words[:3], "<mask>.", *words[4:]])) is None


def failing(error):
    def samples(session):
        raise error

    return samples


def test_a_model_that_cannot_read_its_examples_is_trained_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("pellucid.training.fit.samples", failing(UserError("prompt", "too long")))
    events = list(fit(session("decoder"), tmp_path))
    assert sum(isinstance(event, Step) for event in events) == 18
    (remark,) = [event.text for event in events if isinstance(event, Remark)]  # once, for three evaluations
    assert remark == "no samples are written: prompt: too long."


def test_a_checkpoint_is_there_before_samples_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("pellucid.training.fit.samples", failing(MemoryError()))
    with pytest.raises(MemoryError):
        list(fit(session("decoder"), tmp_path))
    assert (tmp_path / "checkpoints/step-6/state.json").exists()
