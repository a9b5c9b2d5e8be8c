"""Initial weights: the same on every layout, of the right size."""

import math

import pytest
import torch

from megatrain.config import ModelConfig
from megatrain.model.init import BLOCK_ELEMENTS, build_model, initial_values
from megatrain.parallel.context import Axis, ParallelContext
from megatrain.parallel.plan import Piece

MODEL = ModelConfig(
    vocab_size=264, dim=48, layers=2, heads=8, kv_heads=4, head_dim=8, ffn_dim=96, init_std=0.05
)


def slices(model: ModelConfig, rank: int, size: int, seed: int = 7) -> list[tuple[Piece, torch.Tensor]]:
    """Every piece of a logical tensor that a rank of the tensor axis holds, with its values."""
    context = ParallelContext(
        world=Axis(rank, size), data=Axis(), tensor=Axis(rank, size), device=torch.device("cpu")
    )
    built, layout = build_model(model, context, seed=seed, dtype=torch.float32)
    parameters = dict(built.named_parameters())
    assert parameters.keys() == layout.keys()
    return [
        (piece, parameters[name].detach().narrow(0, piece.first_row, piece.local[0]))
        for name, pieces in layout.items()
        for piece in pieces
    ]


def whole(model: ModelConfig, size: int, seed: int = 7) -> dict[str, torch.Tensor]:
    """The logical tensors, put together from the slices of all ranks."""
    tensors: dict[str, torch.Tensor] = {}
    for rank in range(size):
        for piece, values in slices(model, rank, size, seed):
            tensor = tensors.setdefault(piece.name, torch.full(piece.shape, math.nan))
            tensor[tuple(slice(a, a + n) for a, n in zip(piece.offset, piece.local, strict=True))] = values
    assert not any(tensor.isnan().any() for tensor in tensors.values())
    return tensors


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("size", [2, 4])
def test_weights_do_not_depend_on_the_layout(size: int, tied: bool) -> None:
    model = MODEL.model_copy(update={"tied_embeddings": tied})
    alone, split = whole(model, 1), whole(model, size)
    assert alone.keys() == split.keys() and ("head.weight" in alone) != tied
    for name in alone:
        assert torch.equal(alone[name], split[name]), name


def test_each_tensor_and_each_seed_has_its_own_values() -> None:
    one, other = whole(MODEL, 1), whole(MODEL, 1, seed=8)
    matrices = [name for name in one if one[name].ndim == 2]
    assert not any(torch.equal(one[name], other[name]) for name in matrices)
    flat = [one[name].flatten()[:64] for name in matrices]
    assert all(not torch.equal(a, b) for i, a in enumerate(flat) for b in flat[i + 1 :])


def test_statistics() -> None:
    """Six standard errors of the mean and of the standard deviation of n normal values."""
    for name, values in whole(MODEL, 1).items():
        if values.ndim == 1:
            assert torch.equal(values, torch.ones_like(values)), name
            continue
        std = MODEL.init_std / (2 if ".wo." in name or ".down." in name else 1)  # sqrt(2 * 2 layers)
        n = values.numel()
        assert abs(values.mean()) < 6 * std / math.sqrt(n), name
        assert abs(values.std() - std) < 6 * std / math.sqrt(2 * n), name


def test_a_slice_across_blocks_is_cut_from_the_whole() -> None:
    width = BLOCK_ELEMENTS // 4  # so that a block is 4 rows
    shape = (11, width)
    all_rows = Piece("layers.0.mlp.up.weight", shape, (0, 0), shape, 0, replicated=False)
    part = Piece(all_rows.name, shape, (3, 8), (6, 16), 0, replicated=False)
    assert torch.equal(initial_values(part, MODEL, 1), initial_values(all_rows, MODEL, 1)[3:9, 8:24])


def test_building_gives_no_meta_tensor_and_keeps_ties() -> None:
    model, _ = build_model(
        MODEL.model_copy(update={"tied_embeddings": True}),
        ParallelContext.single(),
        seed=1,
        dtype=torch.bfloat16,
    )
    assert model.head.weight is model.embedding.weight
    assert all(p.dtype == torch.bfloat16 and p.device.type == "cpu" for p in model.parameters())
    marks = {name: p.tensor_model_parallel for name, p in model.named_parameters()}  # type: ignore[attr-defined]
    assert all(split != ("norm" in name) for name, split in marks.items())
