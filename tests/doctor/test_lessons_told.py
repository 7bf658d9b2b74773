"""Faults that the writers of the course met: what is given is used, and nothing passes that should not."""

import pytest
import torch
import torch.nn.functional as F
from families import small
from torch import nn

import pellucid as pl
from pellucid.inference.sampling import TopP


def shifted(logits, batch):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch.ids[:, 1:].flatten())


def unshifted(logits, batch):
    return F.cross_entropy(logits.flatten(0, 1), batch.ids.flatten())


def rolled(logits, batch):
    return F.cross_entropy(logits.flatten(0, 1), batch.ids.roll(-1, 1).flatten())


@pytest.mark.parametrize(("criterion", "status"), [(shifted, "PASS"), (unshifted, "FAIL"), (rolled, "FAIL")])
@pytest.mark.parametrize("own", [True, False], ids=["ours", "plain"])
def test_a_criterion_that_is_given_is_the_one_that_is_asked(criterion, status, own):
    model = small("decoder") if own else nn.Sequential(nn.Embedding(61, 16), nn.Linear(16, 61))
    report = pl.doctor(model, pl.Spec(kind="decoder", vocab_size=61, criterion=criterion), only=["loss.alignment"])
    assert report["loss.alignment"].status == status, report["loss.alignment"].seen


def test_rolled_labels_are_named():
    model = nn.Sequential(nn.Embedding(61, 16), nn.Linear(16, 61))
    finding = pl.doctor(model, pl.Spec(kind="decoder", vocab_size=61, criterion=rolled), only=["loss.alignment"])[
        "loss.alignment"
    ]
    assert "asked for the first token" in finding.seen
    assert "roll" in finding.cause
    script = finding.repro(
        "import torch.nn.functional as F\nfrom torch import nn\nmodel = nn.Sequential(nn.Embedding(61, 16), nn.Linear(16, 61))"
    )
    assert "first token" in script


class Nothing(nn.Module):
    """Its outputs are no numbers at the first position, with a cache and without."""

    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(61, 16), nn.Linear(16, 61)

    def forward(self, ids, cache=None):
        past = 0 if cache is None else cache
        found = self.out(self.table(ids))
        places = torch.arange(past, past + ids.size(1))
        return found.masked_fill((places == 0)[:, None], torch.nan), past + ids.size(1)


def test_what_is_no_number_does_not_agree_with_itself():
    spec = pl.Spec(
        kind="decoder", vocab_size=61, call=lambda model, batch: model(batch.ids)[0],
        step=lambda model, batch, cache: model(batch.ids, cache),
    )  # fmt: skip
    finding = pl.doctor(Nothing(), spec, only=["kv.parity"])["kv.parity"]
    assert finding.status != "PASS"
    assert "no number" in finding.seen


def test_all_of_the_probability_keeps_every_token():
    for scores in (torch.tensor([[0.0, -17.0, -17.0]]), torch.randn(2, 50_257) * 8):
        assert TopP(1.0)(scores).equal(scores)
    barred = torch.tensor([[0.0, -torch.inf, -1.0]])
    assert TopP(1.0)(barred).equal(barred)


class Attending(nn.Module):
    """A decoder of one head, whose weights are what a function makes of the scores."""

    def __init__(self, weigh):
        super().__init__()
        self.table, self.places = nn.Embedding(61, 16), nn.Embedding(64, 16)
        self.qkv, self.out, self.weigh = nn.Linear(16, 48), nn.Linear(16, 61), weigh

    def forward(self, ids):
        x = self.table(ids) + self.places.weight[: ids.size(1)]
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        future = torch.ones(ids.size(1), ids.size(1)).triu(1).bool()
        return self.out(x + self.weigh(q @ k.mT / 4, future) @ v)


@pytest.mark.parametrize(
    ("weigh", "named"),
    [
        (lambda s, future: s.softmax(-1).masked_fill(future, 0), "something else than a softmax"),
        (lambda s, future: s.masked_fill(future, -torch.inf).softmax(-2).nan_to_num(), "over another axis"),
        (
            lambda s, future: s.masked_fill(future | torch.eye(len(future)).bool(), -torch.inf).softmax(-1),
            "outputs are NaN",
        ),
    ],
    ids=["masked after the softmax", "over the queries", "nothing to see"],
)
def test_a_cause_is_named_for_what_it_is(weigh, named):
    torch.manual_seed(0)
    report = pl.doctor(Attending(weigh), pl.Spec(kind="decoder", vocab_size=61))
    assert named in report.diagnoses[0].name, [cause.name for cause in report.diagnoses]
