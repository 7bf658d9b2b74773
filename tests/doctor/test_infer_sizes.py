"""Sizes and kinds that cannot be read off a name, and lengths that a model insists on."""

import callable_models as models
import pytest
import torch
from test_infer import found
from torch import nn
from zoo.base import BERT

import pellucid as pl
from pellucid.doctor.finding import Status
from pellucid.doctor.spec import Spec
from pellucid.doctor.ways.size import vocabulary
from pellucid.errors import UserError


class Generator(BERT):
    """What guesses the words that were masked, as ELECTRA's is called."""


class Generating(models.Plain):
    """A decoder."""


def test_what_generates_may_read_both_ways():
    subject, notes = found(Generator().eval())
    assert subject.spec.kind == "encoder"
    assert any("100% of the future is seen; if it is meant otherwise" in note for note in notes)
    assert found(Generating().eval())[0].spec.kind == "decoder"


def test_a_kind_that_is_taken_from_a_name_says_how_to_say_another():
    kind = type("ALanguageModel", (models.Reader,), {})
    subject, notes = found(kind().eval())
    assert subject.spec.kind == "decoder"  # one without a mask is a fault, and no encoder
    assert any(note.startswith("kind: decoder") and "Spec(kind=…)" in note for note in notes)


class Marked(models.Plain):
    """With a table of one row, added to all."""

    def __init__(self, rows=1):
        super().__init__()
        self.cls_emb = nn.Embedding(rows, models.WIDTH)

    def forward(self, ids):
        return self.logits(ids) + 0.0 * self.cls_emb.weight.sum()


@pytest.mark.parametrize("rows", [1, 2, 15])
def test_a_small_table_beside_a_large_one_is_not_the_vocabulary(rows):
    assert found(Marked(rows).eval())[0].spec.vocab_size == models.VOCAB


def test_the_small_table_is_where_there_is_none_larger_or_outputs_are_as_many():
    alone, few = nn.Module(), nn.Module()
    alone.tok_emb, alone.tgt_emb = nn.Embedding(10, 8), nn.Embedding(12, 8)
    few.tok_emb, few.task_emb, few.head = nn.Embedding(10, 8), nn.Embedding(100, 8), nn.Linear(8, 10)
    assert [vocabulary(alone), vocabulary(few)] == [10, 10]


def test_one_token_is_no_vocabulary():
    with pytest.raises(UserError, match=r"vocab_size.*2 or more"):
        Spec(vocab_size=1)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_model_of_one_length_has_a_kind_and_a_map(causal, rows):
    class Whole(nn.Module):
        """Reads 20 tokens, neither more nor less; with ``rows`` of 3, also as many texts."""

        def __init__(self):
            super().__init__()
            self.tok, self.layer = nn.Embedding(61, models.WIDTH), models.Layer(causal)
            self.pos = nn.Parameter(torch.randn(rows, 20, models.WIDTH) / 10)
            self.head = nn.Linear(models.WIDTH, 61)

        def forward(self, ids):
            x = self.tok(ids)
            assert x.shape[1:] == self.pos.shape[1:]
            assert rows in (1, len(x))
            return self.head(self.layer(x + self.pos))

    torch.manual_seed(0)
    report = pl.doctor(Whole(), level="quick")
    assert any(f"kind: {'decoder' if causal else 'encoder'}" in note for note in report.inferred)
    assert report["influence.map"].status is Status.PASS
    assert len(report["influence.map"].evidence["map"]) == 20
