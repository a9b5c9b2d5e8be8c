"""A fingerprint changes with any bit; who differs from the others is named."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatrain.resilience import replicas
from megatrain.resilience.replicas import INTEGERS, fingerprints, minority, weighted_sum


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(max_examples=60)
@given(data=st.data())
def test_one_bit_anywhere(dtype: torch.dtype, data: st.DataObject) -> None:
    """Over the edges of pieces too; the sign bit, a NaN's payload, all count."""
    replicas.CHUNK = 7
    count = data.draw(st.integers(1, 40))
    tensor = torch.randn(count, generator=torch.Generator().manual_seed(count)).to(dtype)
    at, bit = data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, tensor.element_size() * 8 - 1))
    other = tensor.clone()
    bits = other.view(INTEGERS[tensor.element_size()])
    bits[at] ^= -(1 << bit) if bit == tensor.element_size() * 8 - 1 else 1 << bit
    assert fingerprints([tensor, other]) == fingerprints([tensor.clone(), other.clone()])
    assert len(set(fingerprints([tensor, other]))) == 2
    assert int(weighted_sum(tensor)) == int(weighted_sum(tensor.clone())) != int(weighted_sum(other))
    replicas.CHUNK = 1 << 22


def test_order_counts_and_so_does_the_shape_of_memory_not() -> None:
    matrix = torch.randn(5, 3)
    for of in (weighted_sum, lambda one: fingerprints([one])[0]):
        assert int(of(matrix)) != int(of(matrix.flip(0)))
        assert int(of(matrix.t())) == int(of(matrix.t().contiguous()))


def test_who_differs() -> None:
    assert minority({0: 5, 1: 5, 2: 5}) == []
    assert minority({0: 5, 3: 6, 7: 5}) == [3]
    assert minority({0: 5, 1: 6}) == [0, 1], "of two nobody can tell"
    assert minority({0: 1, 1: 2, 2: 3}) == [0, 1, 2]
    assert minority({0: 1, 1: 1, 2: 3, 3: 4}) == [0, 1, 2, 3], "half is not a majority"
    assert minority({4: 9}) == []
