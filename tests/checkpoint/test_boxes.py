"""A flat range of a tensor is a few boxes that tile it exactly, in the order of memory."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megatrain.checkpoint.boxes import Box, flat_range_boxes, piece_boxes
from megatrain.parallel.plan import Piece

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[tuple[int, ...], int, int]:
    shape = draw(SHAPES)
    size = int(np.prod(shape))
    start, stop = sorted(draw(st.tuples(st.integers(0, size), st.integers(0, size))))
    return shape, start, stop


def cut(array: np.ndarray, box: Box) -> np.ndarray:
    return array[tuple(slice(a, a + n) for a, n in zip(box.offset, box.shape, strict=True))]


@given(ranges())
def test_boxes_tile_the_range(drawn: tuple[tuple[int, ...], int, int]) -> None:
    shape, start, stop = drawn
    numbers = np.arange(int(np.prod(shape))).reshape(shape)  # each element knows its flat position
    boxes = list(flat_range_boxes(shape, start, stop))
    assert len(boxes) <= 2 * len(shape) - 1
    flat = [n for box, _ in boxes for n in cut(numbers, box).ravel().tolist()]
    assert flat == list(range(start, stop))
    for box, at in boxes:
        assert cut(numbers, box).shape == box.shape and box.numel > 0
        assert cut(numbers, box).ravel()[0] == at


@given(ranges(), st.data())
def test_pieces_of_a_fused_parameter(drawn: tuple[tuple[int, ...], int, int], data: st.DataObject) -> None:
    """Parts lie one below the other in a stored weight; each is a slice somewhere in its logical tensor."""
    local, _, _ = drawn
    before, after = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))
    inner = int(np.prod(local[1:]))
    offset = tuple(data.draw(st.integers(0, 3)) for _ in local)
    shape = tuple(a + n + data.draw(st.integers(0, 2)) for a, n in zip(offset, local, strict=True))
    piece = Piece("w", shape, offset, local, before, replicated=False)
    stored_size = (before + local[0] + after) * inner
    start, stop = sorted(data.draw(st.tuples(st.integers(0, stored_size), st.integers(0, stored_size))))

    # The logical tensor holds, where the slice lies, the position in the stored parameter; elsewhere -1.
    logical = np.full(shape, -1)
    slices = tuple(slice(a, a + n) for a, n in zip(offset, local, strict=True))
    logical[slices] = np.arange(before * inner, (before + local[0]) * inner).reshape(local)
    found = []
    for box, at in piece_boxes(piece, start, stop):
        values = cut(logical, box).ravel().tolist()
        assert values[0] == at
        found.extend(values)
    assert found == list(range(max(start, before * inner), min(stop, (before + local[0]) * inner)))


@given(SHAPES, st.data())
def test_intersection_and_slices_agree_with_sets(shape: tuple[int, ...], data: st.DataObject) -> None:
    def some_box() -> Box:
        offset = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
        sizes = tuple(data.draw(st.integers(1, n - a)) for a, n in zip(offset, shape, strict=True))
        return Box(offset, sizes)

    numbers = np.arange(int(np.prod(shape))).reshape(shape)
    a, b = some_box(), some_box()
    wanted = set(cut(numbers, a).ravel().tolist()) & set(cut(numbers, b).ravel().tolist())
    common = a.intersect(b)
    assert (common is None) == (not wanted)
    assert common == b.intersect(a)
    if common is not None:
        assert set(cut(numbers, common).ravel().tolist()) == wanted
        assert np.array_equal(cut(numbers, a)[common.within(a)], cut(numbers, common))
