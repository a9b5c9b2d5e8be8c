"""The pieces of all ranks tile each logical tensor; the pieces of a rank tile its stored parameters."""

from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatrain.config import ModelConfig
from megatrain.model import Transformer, model_plan
from megatrain.parallel.context import Axis
from megatrain.parallel.plan import Column, Part, Piece, Replicated, Row, layout_of, local_shape, rule_of


@st.composite
def models(draw: st.DrawFn) -> tuple[ModelConfig, int]:
    """A small model, and a size of the tensor axis that divides it."""
    size = draw(st.sampled_from([1, 2, 3, 4]))
    kv_heads = size * draw(st.integers(1, 2))
    model = ModelConfig(
        vocab_size=size * draw(st.integers(1, 5)),
        dim=draw(st.integers(1, 6)),
        layers=draw(st.integers(1, 2)),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 2)),
        ffn_dim=size * draw(st.integers(1, 4)),
        tied_embeddings=draw(st.booleans()),
    )
    return model, size


def stored_shapes(model: ModelConfig) -> list[tuple[str, tuple[int, ...]]]:
    with torch.device("meta"):
        return [(name, tuple(p.shape)) for name, p in Transformer(model).named_parameters()]


@given(models())
@settings(max_examples=30, deadline=None)
def test_pieces_tile_every_logical_tensor(drawn: tuple[ModelConfig, int]) -> None:
    model, size = drawn
    shapes = stored_shapes(model)
    seen: dict[str, list[Piece]] = defaultdict(list)
    for rank in range(size):
        layout = layout_of(shapes, model_plan(model), Axis(rank, size))
        assert list(layout) == [name for name, _ in shapes]
        for pieces in layout.values():
            first = 0
            for piece in pieces:  # they fill the stored parameter, one below the other
                assert piece.first_row == first and piece.local[1:] == pieces[0].local[1:]
                first += piece.local[0]
                seen[piece.name].append(piece)
            assert local_shape(pieces)[0] == first
    for name, pieces_of_all in seen.items():
        counts = torch.zeros(pieces_of_all[0].shape, dtype=torch.int64)
        for piece in pieces_of_all:
            assert piece.shape == tuple(counts.shape), name
            counts[tuple(slice(a, a + n) for a, n in zip(piece.offset, piece.local, strict=True))] += 1
        times = size if pieces_of_all[0].replicated else 1
        assert bool((counts == times).all()), name
    assert sum(torch.Size(pieces[0].shape).numel() for pieces in seen.values()) == sum(
        torch.Size(shape).numel() for _, shape in shapes
    )


def test_rules_say_what_is_split() -> None:
    plan = {
        "a.qkv": Column((Part("wq", 4), Part("wk", 2))),
        "a.wo": Row(),
        "b": Column(),
        "norm": Replicated(),
    }
    shapes = [("a.qkv.weight", (6, 3)), ("a.wo.weight", (3, 4)), ("b.weight", (4, 3)), ("norm.weight", (3,))]
    layout = layout_of(shapes, plan, Axis(1, 2))
    told = {p.name: (p.offset, p.local, p.first_row, p.replicated) for ps in layout.values() for p in ps}
    assert told == {
        "a.wq.weight": ((2, 0), (2, 3), 0, False),
        "a.wk.weight": ((1, 0), (1, 3), 2, False),
        "a.wo.weight": ((0, 2), (3, 2), 0, False),
        "b.weight": ((2, 0), (2, 3), 0, False),
        "norm.weight": ((0,), (3,), 0, True),
    }
    assert local_shape(layout["a.qkv.weight"]) == (3, 3)
    with pytest.raises(KeyError, match="no rule for other"):
        rule_of(plan, "other")


def test_the_patterns_hold_for_layers_of_two_digits() -> None:
    model = ModelConfig(vocab_size=8, dim=4, layers=11, heads=2, kv_heads=1, head_dim=2, ffn_dim=4)
    plan = model_plan(model)
    for name, _ in stored_shapes(model):
        module = name.rpartition(".")[0]
        assert rule_of(plan, module) == rule_of(plan, module.replace("10", "1"))
