"""A beam search as a tree: its best leaf is the result, and every number adds up."""

import pytest
import torch
from families import VOCAB, small

from pellucid.config import run as config
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError
from pellucid.inference.beam import Power, Wu, beam_search
from pellucid.inference.decode import Prompt
from pellucid.inference.tree import beam_tree

ENDS = (1, 5)
writers = pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])


def prompt(family):
    torch.manual_seed(3)
    source = torch.randint(6, VOCAB, (1, 5)) if family == "encoder_decoder" else None
    return Prompt(torch.randint(6, VOCAB, (1, 3)), source=source)


@writers
@pytest.mark.parametrize("penalty", [Wu(0.6), Power(1.0), Wu(0.0)])
@pytest.mark.parametrize("beams", [1, 3, 8])
def test_the_leaves_are_what_beam_search_finds(family, penalty, beams):
    model, start = small(family), prompt(family)
    settings = {"beams": beams, "max_new_tokens": 7, "ends": ENDS, "penalty": penalty}
    (found,) = beam_search(model, start, **settings)
    tree = beam_tree(model, start, **settings)
    assert list(tree.found) == found
    for text, leaf in zip(found, tree.leaves, strict=True):
        node = tree.nodes[leaf]
        tokens = [tree.nodes[step].token for step in tree.path(leaf)]
        over = node.fate == "finished"
        assert tuple(tokens[: len(tokens) - over]) == text.tokens
        assert (tokens[-1] in ENDS) == over
        assert node.score == text.score == pytest.approx(node.total / penalty(len(tokens)), abs=1e-12)


@writers
@torch.no_grad()
def test_a_node_has_the_log_probability_that_the_model_gives_its_token(family):
    model, start = small(family), prompt(family)
    tree = beam_tree(model, start, beams=3, max_new_tokens=5, ends=ENDS)
    for place, node in enumerate(tree.nodes):
        tokens = [tree.nodes[step].token for step in tree.path(place)]
        whole = torch.cat([start.tokens, torch.tensor([tokens])], dim=1)
        logits = model(start.source, whole) if start.source is not None else model(whole)
        expected = logits[0, -2].log_softmax(-1)[node.token].item()
        assert node.log_probability == pytest.approx(expected, abs=1e-4)
        assert node.length == len(tokens)


@writers
def test_as_many_go_on_as_there_are_beams_and_they_are_the_best_that_do_not_end(family):
    tree = beam_tree(small(family), prompt(family), beams=3, max_new_tokens=5, ends=ENDS)
    for length in range(1, 6):
        level = [node for node in tree.nodes if node.length == length]
        if not level:
            break
        kept = [node for node in level if node.fate == "kept"]
        assert sorted(node.beam for node in kept) == list(range(min(len(kept), 3)))
        best = sorted((node.total for node in level if node.token not in ENDS), reverse=True)[: len(kept)]
        assert sorted((node.total for node in kept), reverse=True) == best
        assert all(node.beam is None for node in level if node.fate != "kept")


def test_a_tree_is_of_one_text():
    with pytest.raises(UserError, match="2 rows"):
        beam_tree(small("decoder"), Prompt(torch.ones(2, 3, dtype=torch.long)), beams=2, max_new_tokens=2, ends=())


def test_it_can_be_told_in_pieces():
    tokenizer = Tokenizer.train(config.Bytes(), ["ab"])
    tree = beam_tree(small("decoder"), prompt("decoder"), beams=2, max_new_tokens=2, ends=ENDS)
    told = tree.as_dict(tokenizer)
    assert len(told["nodes"]) == len(tree.nodes)
    assert told["nodes"][0]["piece"] == tokenizer.pieces([tree.nodes[0].token])[0]
    assert [found["leaf"] for found in told["found"]] == list(tree.leaves)
