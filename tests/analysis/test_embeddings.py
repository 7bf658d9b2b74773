"""Neighbours in a table whose angles are known."""

import math

import pytest
import torch

from pellucid.analysis.embeddings import nearest, norms
from pellucid.errors import UserError


def test_neighbours_are_ordered_by_angle_and_not_by_length():
    angles = torch.tensor([0.0, 90.0, 30.0, 180.0, 60.0]).deg2rad()
    lengths = torch.tensor([1.0, 1.0, 0.1, 7.0, 50.0])
    table = torch.stack([angles.cos(), angles.sin()], dim=1) * lengths[:, None]
    found = nearest(table, 0, top=3)
    assert [one.id for one in found] == [2, 4, 1]
    assert [one.cosine for one in found] == pytest.approx([math.cos(math.pi / 6), 0.5, 0.0], abs=1e-7)
    assert [one.norm for one in found] == pytest.approx([0.1, 50.0, 1.0])
    assert torch.allclose(norms(table), lengths)


def test_centred_neighbours_see_past_what_all_have_in_common():
    table = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0], [-0.9, -0.1]]) + torch.tensor([0.0, 100.0])
    assert min(one.cosine for one in nearest(table, 0)) > 0.99
    centred = nearest(table, 0, centred=True)
    assert centred[0].id == 1
    assert centred[-1].cosine == pytest.approx(-1.0)


def test_a_table_of_few_tokens_and_one_of_zeros():
    found = nearest(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), 0, top=10)
    assert [(one.id, one.cosine) for one in found] == [(1, 0.0)]


def test_a_token_outside_is_refused():
    with pytest.raises(UserError, match="ids from 0 to 2"):
        nearest(torch.eye(3), 3)
