"""The layers with gradients of their own, against the plain formula that autograd takes apart."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from megatrain.config import RopeConfig
from megatrain.model.mlp import gated
from megatrain.model.norm import RMSNorm
from megatrain.model.rope import Rotation, rotation

# bf16: four roundings of half a unit of 8 bits; fp32: sums of some hundred terms in another order.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2 * 2**-7}


def random(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def norm(dim: int, dtype: torch.dtype) -> RMSNorm:
    module = RMSNorm(dim, eps=1e-2).to(dtype)
    module.weight.data = random(dim, dtype=dtype).data + 1
    return module


def turn(dtype: torch.dtype) -> Rotation:
    """Of two rows of five positions."""
    positions = torch.stack((torch.arange(5), torch.arange(7, 12)))
    return rotation(positions, 6, RopeConfig(theta=20.0), dtype)


def plain_turn(rotate: Rotation, qkv_BSMH: torch.Tensor) -> tuple[torch.Tensor, ...]:
    q, k, v = qkv_BSMH.transpose(1, 2).split((4, 2, 2), dim=1)

    def turned(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * rotate.cos_B1SH + torch.cat((-second, first), dim=-1) * rotate.sin_B1SH

    return turned(q), turned(k), v


def test_gradients_are_those_of_finite_differences() -> None:
    double = torch.float64
    x, module = random(2, 5, 6), norm(6, double)
    assert torch.autograd.gradcheck(lambda x, _: module(x), (x, module.weight))
    rotate = turn(double)
    assert torch.autograd.gradcheck(lambda qkv: rotate(qkv, 4, 2), random(2, 5, 8, 6))


def compare(
    ours: Callable[[], tuple[torch.Tensor, ...]],
    plain: Callable[[], tuple[torch.Tensor, ...]],
    leaves: list[torch.Tensor],
) -> None:
    dtype = leaves[0].dtype
    results = []
    for function in (ours, plain):
        outs = function()
        grads = torch.autograd.grad(outs, leaves, [random(*o.shape, dtype=dtype).detach() for o in outs])
        results.append((*outs, *grads))
    for mine, wanted in zip(*results, strict=True):
        assert mine.dtype == dtype
        size = wanted.abs().max().item()
        torch.testing.assert_close(mine, wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * size)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_values_and_gradients_are_those_of_the_plain_formula(dtype: torch.dtype) -> None:
    module = norm(96, dtype)
    x = random(3, 50, 96, dtype=dtype)
    theirs = F.rms_norm(x, (96,), module.weight, module.eps)
    assert torch.equal(module(x), theirs)
    compare(lambda: (module(x),), lambda: (F.rms_norm(x, (96,), module.weight, 1e-2),), [x, module.weight])

    rotate, qkv = turn(dtype), random(2, 5, 8, 6, dtype=dtype)
    compare(lambda: rotate(qkv, 4, 2), lambda: plain_turn(rotate, qkv), [qkv])


def test_no_gradient_is_wanted() -> None:
    """As in generation: the same values in inference mode, with a part of the gradients too."""
    module, x, rotate, qkv = norm(6, torch.float64), random(2, 5, 6), turn(torch.float64), random(2, 5, 8, 6)
    wanted = module(x), *rotate(qkv, 4, 2)
    with torch.inference_mode():
        for out, value in zip((module(x), *rotate(qkv, 4, 2)), wanted, strict=True):
            assert torch.equal(out, value)
    q, _, _ = rotate(qkv, 4, 2)  # keys and values unused: their gradients are zero
    q.sum().backward()
    assert qkv.grad is not None and torch.equal(qkv.grad[:, :, 4:], torch.zeros(2, 5, 4, 6).double())


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_gate_is_the_plain_formula_to_the_bit(dtype: torch.dtype) -> None:
    gate_up, grad = random(3, 5, 14, dtype=dtype), random(3, 5, 7, dtype=dtype).detach()
    gate, up = gate_up.chunk(2, dim=-1)
    out, wanted = gated(gate_up), F.silu(gate) * up
    assert torch.equal(out, wanted)
    ours, theirs = (torch.autograd.grad(one, gate_up, grad)[0] for one in (out, wanted))
    assert torch.equal(ours, theirs)
    assert torch.autograd.gradcheck(gated, random(2, 3, 8))
