"""Products of float32 through another library: taken where they are exact, and never left behind."""

import pytest
import torch

from pellucid.nn import medium


@pytest.mark.parametrize(("error", "inside"), [(4e-7, "medium"), (3e-3, "highest")])
def test_they_are_taken_where_they_are_exact(monkeypatch, error, inside):
    monkeypatch.setattr(medium, "medium_error", lambda: error)
    assert torch.get_float32_matmul_precision() == "highest"
    seen = []

    def product():
        with medium.exact_products():
            seen.append(torch.get_float32_matmul_precision())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        product()
    assert seen == [inside]
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_error_is_that_of_float32_or_of_bfloat16():
    assert medium.medium_error() < 1e-2
    assert torch.get_float32_matmul_precision() == "highest"


def test_who_leaves_last_restores_it():
    first, second = medium.medium_products(), medium.medium_products()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.get_float32_matmul_precision() == "medium"
    second.__exit__(None, None, None)
    assert torch.get_float32_matmul_precision() == "highest"
