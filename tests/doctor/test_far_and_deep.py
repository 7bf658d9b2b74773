"""Faults of a deeper layer, far out in a text, of a few keys within a window, or beside norms are seen, and told where."""

import pytest
import torch
from torch import nn
from zoo.base import BERT, GPT, Attention, Rotary, bert_spec, gpt_spec
from zoo.decoders import Window
from zoo.healthy import Unscaled
from zoo.positions import HalvesAndPairs, OneSpeed, QueryAlone, ValuesToo

import pellucid as pl
from pellucid.doctor.finding import Status


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)


def asked(check, model, **spec):
    return pl.doctor(model, gpt_spec(**spec), only=[check])[check]


def shows(finding, model):
    """Whether the script of a finding finds the fault in a model."""
    try:
        exec(compile(finding.repro("pass"), "repro", "exec"), {"model": model, "__name__": "repro"})
    except AssertionError:
        return True
    return False


# ---- wide windows ----------------------------------------------------------------------------------


class Wide(Window, Rotary):
    """Sees a hundred keys."""

    width = 100


class Dropping(Window):
    """Its cache drops the oldest keys before the query has seen them."""

    width = 100

    def forward(self, x, keep=None, past=None):
        out, (k, v) = super().forward(x, keep, past)
        return out, (k[:, :, -97:], v[:, :, -97:])


@pytest.mark.parametrize("longest", [None, 104, 101])
@pytest.mark.parametrize("check", ["attn.mask", "kv.parity"])
def test_a_wide_window_is_reached(check, longest):
    found = asked(check, GPT(Wide, learned=False), window=100, max_length=longest)
    assert found.status is Status.PASS, found.seen
    assert "was not reached" not in found.seen


@pytest.mark.parametrize("longest", [None, 101])
def test_a_wide_window_that_is_ignored_is_seen(longest):
    found = asked("attn.mask", GPT(Rotary, learned=False), window=100, max_length=longest)
    assert found.status is Status.FAIL
    assert "keys it may not see" in found.seen
    assert shows(found, GPT(Rotary, learned=False))
    assert not shows(found, GPT(Wide, learned=False))


@pytest.mark.parametrize("longest", [None, 101])
def test_a_cache_that_is_too_short_for_a_wide_window_is_seen(longest):
    found = asked("kv.parity", GPT(Dropping, learned=False), window=100, max_length=longest)
    assert found.status is Status.FAIL
    assert "across the window" in found.seen
    assert "first at position 98" in found.seen  # at which a key is gone for the first time
    assert shows(found, GPT(Dropping, learned=False))
    assert not shows(found, GPT(Wide, learned=False))


class Full(Wide):
    """Its cache has room for the window alone."""

    def remembered(self, k, v, past):
        assert past is None or past[0].size(2) + k.size(2) <= 100, "the cache is full"
        return super().remembered(k, v, past)


def test_a_step_of_ones_own_that_ends_at_a_wide_window_is_warned_of():
    found = asked("kv.parity", GPT(Full, learned=False), window=100)
    assert found.status is Status.WARN
    assert "across the window: stepping raises AssertionError: the cache is full" in found.seen


@pytest.mark.parametrize("check", ["attn.mask", "kv.parity"])
@pytest.mark.parametrize(("window", "longest"), [(4096, None), (600, 700)])
def test_a_window_that_is_not_reached_is_told(check, window, longest):
    found = asked(check, GPT(Rotary, learned=False), window=window, max_length=longest)
    assert found.status is Status.PASS
    assert f"the window of {window} was not reached" in found.seen


def test_nothing_is_told_of_a_window_that_no_text_reaches():
    assert "not reached" not in asked("attn.mask", GPT(), window=4096).seen


# ---- keys within a window --------------------------------------------------------------------------


class Blocks(Attention):
    """Sees those of its own eight alone."""

    def allowed(self, queries, keys):
        query, key = torch.arange(keys - queries, keys)[:, None], torch.arange(keys)
        return (key <= query) & (key // 8 == query // 8)


class Hole(Window):
    """Does not see the key two before it."""

    def allowed(self, queries, keys):
        query, key = torch.arange(keys - queries, keys)[:, None], torch.arange(keys)
        return super().allowed(queries, keys) & (query - key != 2)


@pytest.mark.parametrize(("kind", "pair"), [(Blocks, (7, 8)), (Hole, (0, 2))])
def test_a_key_that_is_hidden_within_the_window_is_seen(kind, pair):
    found = asked("attn.mask", GPT(kind), window=8)
    assert found.status is Status.FAIL
    assert "hides key {} from query {}".format(*pair) in found.seen
    assert shows(found, GPT(kind))
    assert not shows(found, GPT(Window))
    assert asked("attn.mask", GPT(Window, kind), window=(8, 8)).where.startswith("blocks.1.attention")
    assert asked("attn.mask", GPT(Window, Attention), window=(8, 0)).status is Status.PASS


class Near(Attention):
    """Sees five to either side."""

    def masked(self, scores, keep):
        query, key = torch.arange(scores.size(-2))[:, None], torch.arange(scores.size(-1))
        return scores.masked_fill((query - key).abs() > 5, -torch.inf)


def test_an_encoder_with_a_hole_in_its_window_is_warned_of():
    for window, status in ((6, Status.PASS), (8, Status.WARN)):
        found = pl.doctor(BERT(Near), bert_spec(window=window), only=["attn.mask"])["attn.mask"]
        assert found.status is status, found.seen


# ---- positions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "seen"),
    [
        (HalvesAndPairs, "of their spread, from the start"),
        (ValuesToo, "values are told their positions"),
        (QueryAlone, "queries are told their positions and keys are not"),
        (OneSpeed, "one frequency in place of many"),
    ],
)
def test_every_layer_is_asked_how_it_rotates(kind, seen):
    found = asked("pos.rope", GPT(Rotary, kind, learned=False))
    assert found.status is Status.FAIL
    assert seen in found.seen
    assert found.where.startswith("blocks.1.attention")
    assert shows(found, GPT(Rotary, kind, learned=False))
    assert not shows(found, GPT(Rotary, learned=False))


@pytest.mark.parametrize("kinds", [(Rotary, Attention), (Attention, Rotary), (Rotary, Rotary, Rotary)])
def test_layers_that_rotate_rightly_or_not_at_all_are_right(kinds):
    assert asked("pos.rope", GPT(*kinds, layers=4, learned=False)).status is Status.PASS


class Clamped(GPT):
    """All positions beyond the thirtieth are one."""

    def embedded(self, ids, start=0):
        return self.tokens(ids) + self.positions(torch.arange(start, start + ids.size(1)).clamp(max=30))


def test_positions_that_are_clamped_far_out_are_seen():
    found = asked("pos.present", Clamped())
    assert found.status is Status.FAIL
    assert "all positions from 30 on are told to be at one place" in found.seen
    assert shows(found, Clamped())
    assert not shows(found, GPT())
    assert asked("pos.present", GPT()).status is Status.PASS


class Offset(GPT):
    """Begins at the third row of its table, as OPT does."""

    def embedded(self, ids, start=0):
        return self.tokens(ids) + self.positions(torch.arange(start + 2, start + 2 + ids.size(1)))


@pytest.mark.parametrize("kind", [GPT, Offset])
def test_rows_of_a_table_that_were_never_trained_are_no_sure_fault(kind):
    model = kind()
    with torch.no_grad():
        model.positions.weight[30:] = 0
    found = asked("pos.present", model, max_length=62)
    assert found.status is Status.WARN
    assert "rows of positions.weight are the same there" in found.seen


def test_a_table_that_ends_where_positions_are_clamped_is_no_untrained_one():
    model = Clamped()
    model.positions = nn.Embedding(31, 32)
    assert asked("pos.present", model, max_length=62).status is Status.FAIL


# ---- scales ----------------------------------------------------------------------------------------


class Between(Unscaled):
    """Norms of the whole layer stand beside its queries and keys."""

    def __init__(self, heads, affine):
        super().__init__(heads=heads)
        self.norm_in, self.norm_out = (nn.LayerNorm(32, elementwise_affine=affine) for _ in range(2))

    def forward(self, x, keep=None, past=None):
        out, kept = super().forward(self.norm_in(x), keep, past)
        return self.norm_out(out), kept


@pytest.mark.parametrize(("heads", "affine"), [(1, True), (4, False)])
def test_a_scale_that_is_missing_beside_norms_of_a_layer_is_seen(heads, affine):
    found = asked("attn.scale", GPT(lambda: Between(heads, affine)))
    assert found.status is Status.FAIL
    assert "no scale at all" in found.seen


# ---- where steps begin to differ -------------------------------------------------------------------


class Late(GPT):
    """Positions go on as they should, and from the twentieth begin again."""

    def start(self, cache):
        start = super().start(cache)
        return start if start < 20 else 0


def last_alone(model, batch, cache):
    outputs, cache = model.step(batch.ids, cache)
    return outputs[:, -1:], cache


def test_the_first_position_that_differs_is_named_also_where_steps_give_the_last_alone():
    for step in (gpt_spec().step, last_alone):
        found = pl.doctor(Late(), gpt_spec(step=step), only=["kv.parity"])["kv.parity"]
        assert found.status is Status.FAIL
        assert "first at position 20" in found.seen
        assert found.evidence["why"] == "placed"
        assert found.where.startswith("blocks.0.attention")
