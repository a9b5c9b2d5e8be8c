"""The cross-entropy that uses up its logits, against torch's in double precision."""

import pytest
import torch
import torch.nn.functional as F

from megatrain.parallel.cross_entropy import CHUNK_ELEMENTS, CrossEntropySum

# Half a unit in the last place of the stored gradient, twice: as softmax and as gradient.
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2 * 2**-8}


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(("rows", "width"), [(7, 11), (5, CHUNK_ELEMENTS // 2)])
def test_loss_and_every_gradient_are_right_in_relative_terms(
    dtype: torch.dtype, rows: int, width: int
) -> None:
    """And so is the small one of a label that is nearly certain."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, width, generator=generator) * 2
    labels = torch.randint(0, width, (rows,), generator=generator)
    mask = torch.ones(rows, dtype=torch.bool)
    mask[1] = False
    logits[0, labels[0]] = 8 + logits[0].logsumexp(0)  # likely, but for a few parts in ten thousand
    logits = logits.to(dtype)

    exact = logits.double().requires_grad_()
    wanted = (F.cross_entropy(exact, labels, reduction="none") * mask).sum()
    (wanted / 3).backward()
    leaf = logits.clone().requires_grad_()
    total = CrossEntropySum()(leaf * 1, labels, mask)
    (total / 3).backward()

    assert exact.grad is not None and leaf.grad is not None
    assert total.dtype == torch.float32 and leaf.grad.dtype == dtype
    torch.testing.assert_close(total.double(), wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=ROUNDING[dtype], atol=2e-7)
    # Roundings average out; a factor that bf16 cannot hold (1/3: wrong by 2e-3) would not.
    ratio = (leaf.grad.double()[mask] / exact.grad[mask]).mean()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=ROUNDING[dtype] / 8 + 2e-6)
    assert torch.equal(leaf.grad[1], torch.zeros(width, dtype=dtype))


def test_logits_survive_where_no_gradient_is_wanted() -> None:
    logits = torch.randn(3, 5)
    before = logits.clone()
    with torch.no_grad():
        CrossEntropySum()(logits, torch.tensor([0, 4, 2]), torch.ones(3, dtype=torch.bool))
    assert torch.equal(logits, before)
