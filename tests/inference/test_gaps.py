"""What an encoder–decoder writes into a gap is what beam search finds, and as likely as one pass says."""

import math
from dataclasses import replace

import pytest
import torch
from families import small

from pellucid.config.defaults import default_run
from pellucid.config.run import Characters, ParallelFiles, SpanCorruption, TextFiles
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError
from pellucid.inference import gaps, predict
from pellucid.models.build import build
from pellucid.models.checkpoint import Loaded


def loaded(sentinels):
    tokenizer = Tokenizer.train(Characters(), ["the cat sat on the mat"]).with_sentinels(sentinels)
    torch.manual_seed(1)
    config = small("encoder_decoder").config
    fronts = {side: replace(getattr(config, side), vocab_size=tokenizer.vocab_size) for side in ("source", "target")}
    model = build(replace(config, **fronts)).eval()
    return Loaded(model, tokenizer, default_run("encoder-decoder", TextFiles(train=("x",))))


def test_a_span_is_as_likely_as_one_pass_says():
    ready = loaded(2)
    tokenizer, (first, second) = ready.tokenizer, ready.tokenizer.sentinels
    found = predict.fill(ready, "the cat <mask> the mat", top=3)
    assert len(found) == 3
    values = [one.probability for one in found]
    assert values == sorted(values, reverse=True)
    source = tokenizer.source([*tokenizer.encode("the cat "), first, *tokenizer.encode(" the mat")])
    for one in found:
        assert one.text.startswith("the cat")
        assert one.text.endswith(" the mat")
        written = one.text.removeprefix("the cat ").removesuffix(" the mat")
        target = [*tokenizer.start, first, *tokenizer.encode(written)]
        with torch.no_grad():
            logits = ready.model(torch.tensor([source]), torch.tensor([target]))[0, 1:].log_softmax(-1)
        path = sum(logits[i, token].item() for i, token in enumerate(target[2:]))
        ends = [logits[len(target) - 2, end].item() for end in (*tokenizer.ends, second)]
        ends = [0.0] if len(target) - 2 == gaps.LONGEST else ends  # it may have been cut off
        assert any(math.exp(path + end) == pytest.approx(one.probability, rel=1e-3) for end in ends)


def test_what_cannot_be_filled_is_told():
    with pytest.raises(UserError, match="was not trained to write what is missing"):
        predict.fill(loaded(0), "a <mask>")
    with pytest.raises(UserError, match="2 gaps"):
        predict.fill(loaded(2), "a <mask> b <mask>")


def test_text_makes_an_encoder_decoder_restore_spans_and_pairs_make_it_translate():
    assert isinstance(default_run("encoder-decoder", TextFiles(train=("x",))).objective, SpanCorruption)
    pairs = default_run("encoder-decoder", ParallelFiles(source="x", target="y"))
    assert not isinstance(pairs.objective, SpanCorruption)
