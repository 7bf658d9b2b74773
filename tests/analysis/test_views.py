"""Who looks where."""

import pytest
import torch
from families import small

from pellucid import trace
from pellucid.analysis.views import redrawn, rule_of, seen
from pellucid.errors import UserError
from pellucid.nn.masks import Mask, Sites

KEEP = torch.tensor([[True, True, True, False]])


def causal(keep=None):
    sites = Sites.of(1, 4, torch.device("cpu"), keep=keep)
    return Mask(query=sites, key=sites, causal=True)


def test_what_a_mask_lets_through():
    found = seen(causal(KEEP).allowed())
    assert (found.queries, found.keys, found.pairs) == (4, 4, 6)
    assert found.blind == (3,)
    assert found.unseen == (3,)
    assert rule_of(causal(KEEP)) == {"causal": True, "window": None, "padding": True, "bias": False}
    assert rule_of(causal()) == {"causal": True, "window": None, "padding": False, "bias": False}


def test_another_rule_leaves_padding_hidden():
    opened = redrawn(False)(causal(KEEP).allowed())
    assert torch.equal(opened, (KEEP[:, None, :, None] & KEEP[:, None, None, :]))
    assert torch.equal(redrawn(True)(opened), causal(KEEP).allowed())
    narrow = redrawn(True, 2)(causal().allowed())
    assert seen(narrow).pairs == 7


def test_a_decoder_whose_mask_is_opened_sees_what_comes():
    model = small("decoder")
    tokens = torch.tensor([[5, 9, 2, 30]])
    opened = trace(model, tokens, edits={"*.mask": redrawn(False)})
    later = trace(model, torch.tensor([[5, 9, 2, 31]]), edits={"*.mask": redrawn(False)})
    assert opened["blocks.0.self_attention.weights"][0, :, 0, 3].min() > 0
    assert not torch.equal(opened["logits"][0, 0], later["logits"][0, 0])
    assert torch.equal(trace(model, tokens, edits={"*.mask": redrawn(True)})["logits"], trace(model, tokens)["logits"])


def test_no_order_between_two_texts():
    with pytest.raises(UserError, match="3 queries and 5 keys"):
        redrawn(True)(torch.ones(1, 1, 3, 5, dtype=torch.bool))
    assert redrawn(False)(torch.ones(1, 1, 3, 5, dtype=torch.bool)).all()
