"""Rollout and flow: two layers by hand, networks whose flow is known, and the weights of models."""

import pytest
import torch
from families import FAMILIES, run, small

from pellucid.analysis.flow import max_flow
from pellucid.analysis.rollout import attention_flow, cross_rollout, rollout
from pellucid.errors import UserError
from pellucid.trace import trace

FIRST = [[1.0, 0.0], [0.5, 0.5]]
SECOND = [[1.0, 0.0], [1.0, 0.0]]


def one_head(rows):
    return torch.tensor(rows)[None, None]


def test_rollout_by_hand():
    """A(1) = [[1, 0], [¼, ¾]], A(2) = [[1, 0], [½, ½]]; the second row of A(2) A(1) is ½ (1, 0) + ½ (¼, ¾)."""
    found = rollout([one_head(FIRST), one_head(SECOND)])
    assert found.shape == (2, 1, 2, 2)
    assert torch.allclose(found[0, 0], torch.tensor([[1.0, 0.0], [0.25, 0.75]]))
    assert torch.allclose(found[1, 0], torch.tensor([[1.0, 0.0], [0.625, 0.375]]))


def test_the_later_layer_multiplies_from_the_left():
    """A(2) = [[½, ½], [½, ½]] gives both positions ½ (1, 0) + ½ (¼, ¾); the other way round both would have halves."""
    found = rollout([one_head(FIRST), one_head([[0.0, 1.0], [1.0, 0.0]])])
    assert torch.allclose(found[1, 0], torch.tensor([[0.625, 0.375], [0.625, 0.375]]))


def test_heads_are_averaged():
    two = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])[None]
    assert torch.allclose(rollout([two]), rollout([one_head(FIRST)]))


def test_a_query_that_sees_nothing_stays_what_it_is():
    blind = one_head([[0.0, 0.0], [0.5, 0.5]])
    assert torch.allclose(rollout([blind])[0, 0, 0], torch.tensor([1.0, 0.0]))
    found = cross_rollout([one_head(FIRST)], [one_head(SECOND)], [one_head([[0.0, 0.0], [0.0, 1.0]])])
    assert torch.allclose(found.target[0, 0, 0], torch.tensor([1.0, 0.0]))
    assert torch.allclose(found.source[0, 0], torch.tensor([[0.0, 0.0], [0.125, 0.375]]))


def test_rollout_through_an_encoder_decoder_by_hand():
    encoder = one_head([[0.0, 1.0], [0.0, 1.0]])  # states: ½ first + ½ second, and the second alone
    decoder, cross = one_head(SECOND), one_head([[1.0, 0.0], [0.0, 1.0]])
    found = cross_rollout([encoder], [decoder, decoder], [cross, cross])
    assert torch.allclose(found.target[0, 0], torch.tensor([[0.5, 0.0], [0.25, 0.25]]))
    assert torch.allclose(found.source[0, 0], torch.tensor([[0.25, 0.25], [0.0, 0.5]]))
    # The second layer: mixed by [[1, 0], [½, ½]], then halved and half of what is read added.
    assert torch.allclose(found.target[1, 0], torch.tensor([[0.25, 0.0], [0.1875, 0.0625]]))
    assert torch.allclose(found.source[1, 0], torch.tensor([[0.375, 0.375], [0.0625, 0.6875]]))


def test_flow_by_hand():
    """From the second position: ½ through the first, which lets 1 through to input 0; ½ through the second, which lets
    ¼ through to input 0 and ¾ to input 1."""
    found = attention_flow([one_head(FIRST), one_head(SECOND)])
    assert torch.allclose(found[0], torch.tensor([[1.0, 0.0], [0.75, 0.5]]))
    assert torch.allclose(attention_flow([one_head(FIRST)])[0], torch.tensor([[1.0, 0.0], [0.25, 0.75]]))


def test_flow_of_some_queries_and_its_progress():
    layers, heard = [torch.randn(2, 3, 4, 4).softmax(-1) for _ in range(2)], []
    some = attention_flow(layers, [3, 1], lambda done, total: heard.append((done, total)))
    assert torch.equal(some, attention_flow(layers)[:, [3, 1]])
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]


def flow_through(nodes, edges):
    capacity = torch.zeros(nodes, nodes)
    for a, b, amount in edges:
        capacity[a, b] = amount
    return max_flow(capacity, 0, nodes - 1)


def test_the_flow_of_networks_that_are_known():
    assert flow_through(3, [(0, 1, 5), (1, 2, 3)]) == 3
    assert flow_through(3, [(1, 0, 5), (2, 1, 3)]) == 0
    edges = [(0, 1, 10), (0, 2, 10), (1, 2, 2), (1, 3, 4), (1, 4, 8), (2, 4, 9), (4, 3, 6), (3, 5, 10), (4, 5, 10)]
    assert flow_through(6, edges) == 19  # as the edges 0-1 and 2-4 together let through


def test_a_flow_is_sent_back_where_it_stands_in_the_way():
    """The shortest way 0-1-2-7 blocks both longer ones, until what it sends from 1 to 2 is sent back."""
    first, second = [(0, 3, 1), (3, 4, 1), (4, 2, 1)], [(1, 5, 1), (5, 6, 1), (6, 7, 1)]
    assert flow_through(8, [(0, 1, 1), (1, 2, 1), (2, 7, 1), *first, *second]) == 2


def test_flows_are_those_of_networkx():
    networkx = pytest.importorskip("networkx")  # which torch brings along
    for _ in range(20):
        capacity = torch.rand(9, 9).double() * (torch.rand(9, 9) < 0.4) * (1 - torch.eye(9))
        graph = networkx.DiGraph()
        graph.add_nodes_from(range(9))
        for a, b in capacity.nonzero().tolist():
            graph.add_edge(a, b, capacity=capacity[a, b].item())
        assert max_flow(capacity, 0, 8) == pytest.approx(networkx.maximum_flow_value(graph, 0, 8))


def towers(family, tape):
    """Weights by layer, of each tower."""
    prefixes = {"encoder_decoder": ("encoder.", "decoder.")}.get(family, ("",))
    return [[tape[f"{prefix}blocks.{i}.self_attention.weights"] for i in range(2)] for prefix in prefixes]


@pytest.mark.parametrize("family", FAMILIES)
def test_in_a_model(family):
    model, tokens = small(family), torch.randint(0, 61, (2, 5))
    with torch.no_grad(), trace(model, watch="*.weights") as tape:
        run(model, tokens)
    for weights in towers(family, tape):
        rolled, flow = rollout(weights), attention_flow(weights)
        assert torch.allclose(rolled.sum(-1), torch.ones(2, 2, 5))
        assert flow.max() <= 1 + 1e-6
        assert torch.allclose(attention_flow(weights[:1]), rolled[0], atol=1e-6)  # one layer has one way to each input
        assert bool((flow >= rolled[-1] - 1e-6).all())  # products of shares never exceed what the edges let through
    if family != "encoder":
        assert torch.equal(rolled[-1], rolled[-1].tril())
    if family == "encoder_decoder":
        cross = [tape[f"decoder.blocks.{i}.cross_attention.weights"] for i in range(2)]
        found = cross_rollout(*towers(family, tape), cross)
        assert torch.allclose(found.source.sum(-1) + found.target.sum(-1), torch.ones(2, 2, 5))
        assert torch.equal(found.target, found.target.tril())
        assert torch.allclose(found.target[0].sum(-1), torch.full((2, 5), 0.5))  # half is read in each layer


def test_what_does_not_fit_is_told():
    with pytest.raises(UserError, match="no layers"):
        rollout([])
    with pytest.raises(UserError, match=r"shape \(1, 1, 2, 3\) in layer 1"):
        rollout([torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 3)])
    square = torch.ones(1, 1, 2, 2)
    with pytest.raises(UserError, match="weights of 2 layers; expected those of 1"):
        cross_rollout([square], [square], [square, square])
    with pytest.raises(UserError, match=r"\(1, 2, 2\), from target to source"):
        cross_rollout([square], [square], [torch.ones(1, 1, 2, 3)])
