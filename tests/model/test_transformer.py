"""The decoder against transformers' Llama and torch's own cross-entropy; documents, recomputation, dtypes."""

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from megatrain.config import Llama3Scaling, ModelConfig, RopeConfig
from megatrain.export.hf_config import hf_config
from megatrain.export.names import to_hf
from megatrain.model import LossSum, Transformer, model_plan
from megatrain.model.init import build_model
from megatrain.parallel.context import Axis, ParallelContext
from megatrain.parallel.plan import layout_of

BASE: dict[str, Any] = {
    "vocab_size": 89,
    "dim": 48,
    "layers": 3,
    "heads": 4,
    "kv_heads": 4,
    "head_dim": 12,
    "ffn_dim": 72,
    "init_std": 0.2,  # large, so that attention is far from uniform
}
SCALED = RopeConfig(
    theta=500.0, llama3=Llama3Scaling(factor=4.0, high_freq_factor=3.0, original_sequence_length=32)
)
MODELS = {
    "mha": ModelConfig(**BASE),
    "gqa": ModelConfig(**BASE | {"kv_heads": 2}),
    "mqa": ModelConfig(**BASE | {"kv_heads": 1}),
    "tied": ModelConfig(**BASE, tied_embeddings=True),
    "wide heads": ModelConfig(**BASE | {"head_dim": 20, "kv_heads": 2}, norm_eps=1e-3),
    "llama3 rope": ModelConfig(**BASE | {"kv_heads": 2}, rope=SCALED),
    "theta": ModelConfig(**BASE, rope=RopeConfig(theta=77.0)),
}


@dataclasses.dataclass(frozen=True)
class Rows:
    tokens: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor

    def loss(self, model: Transformer) -> LossSum:
        out: LossSum = model(self.tokens, self.labels, self.positions, self.mask)
        return out


def built(config: ModelConfig, dtype: torch.dtype = torch.float32, **kind: Any) -> Transformer:
    """A model with random weights, norms too."""
    model = build_model(config, ParallelContext.single(), seed=3, dtype=dtype, **kind)[0]
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator).to(dtype)
    return model


def rows(batch: int = 2, sequence: int = 40, vocab: int = 89) -> Rows:
    generator = torch.Generator().manual_seed(11)
    window = torch.randint(0, vocab, (batch, sequence + 1), generator=generator)
    positions = torch.arange(sequence).expand(batch, sequence)
    mask = torch.rand(batch, sequence, generator=generator) > 0.2
    return Rows(window[:, :-1], window[:, 1:], positions, mask)


def peer(model: Transformer) -> LlamaForCausalLM:
    """transformers' Llama with the same weights."""
    config = LlamaConfig(**hf_config(model.config, sequence_length=4096, dtype="fp32", bos_id=1, eos_id=2))
    theirs = LlamaForCausalLM(config).eval()
    stored = [(name, tuple(p.shape)) for name, p in model.named_parameters()]
    weights = {
        to_hf(piece.name): parameter.detach().narrow(0, piece.first_row, piece.local[0])
        for name, parameter in model.named_parameters()
        for piece in layout_of(stored, model_plan(model.config), Axis())[name]
    }
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert unexpected == [] and missing == (["lm_head.weight"] if model.config.tied_embeddings else [])
    return theirs


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name: str) -> None:
    """4e-5: on logits of size 10 each of the two is within 2e-5 of the same in double precision, depending on
    the processor; a wrong rotation differs by more than 1."""
    model = built(MODELS[name])
    tokens = rows(sequence=100).tokens  # beyond the 32 positions that the scaled RoPE calls original
    positions = torch.arange(100).expand(2, 100)
    with torch.no_grad():
        ours, theirs = model.logits(tokens, positions), peer(model)(tokens).logits
        assert ours.std() > 0.5
        assert (ours - theirs).abs().max() < 4e-5
        # From another place of the sequence too: RoPE is relative, its scaling is not.
        far = model.logits(tokens, positions + 1500)
        assert (far - peer(model)(tokens, position_ids=positions + 1500).logits).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["gqa", "tied"])
def test_loss_and_gradients_are_those_of_torch(name: str) -> None:
    model, batch = built(MODELS[name]), rows()
    loss = batch.loss(model)
    loss.total.backward()
    ours = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    logits = model.logits(batch.tokens, batch.positions)
    wanted = F.cross_entropy(logits[batch.mask], batch.labels[batch.mask], reduction="sum")
    wanted.backward()
    assert loss.tokens == batch.mask.sum() and loss.tokens.dtype == torch.int64
    torch.testing.assert_close(loss.total, wanted, rtol=1e-6, atol=0)
    assert ours.keys() == {n for n, _ in model.named_parameters()}
    for n, parameter in model.named_parameters():
        torch.testing.assert_close(ours[n], parameter.grad, rtol=1e-4, atol=1e-4)  # gradients up to 50


def test_documents_in_one_row_are_documents_alone() -> None:
    """The law of the document mask: loss and gradients of packed documents are the sum over them alone."""
    model = built(MODELS["gqa"], documents=True)
    packed = rows(batch=1)
    lengths = [1, 17, 13, 9]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    packed = dataclasses.replace(packed, positions=positions)
    together = packed.loss(model)
    together.total.backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()

    totals, first = [], 0
    for n in lengths:
        cut = slice(first, first + n)
        alone = Rows(*(getattr(packed, field.name)[:, cut] for field in dataclasses.fields(Rows)))
        totals.append(alone.loss(model).total)
        first += n
    torch.stack(totals).sum().backward()
    torch.testing.assert_close(together.total, torch.stack(totals).sum(), rtol=1e-6, atol=0)
    for parameter, wanted in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-4)
    without = built(MODELS["gqa"], documents=False)
    assert abs(packed.loss(without).total - together.total) > 1  # the mask does matter here


@pytest.mark.parametrize("documents", [False, True])
def test_recomputation_changes_nothing(documents: bool) -> None:
    plain = built(MODELS["gqa"], documents=documents)
    again = built(MODELS["gqa"], documents=documents, recompute="block")
    losses = [rows().loss(model).total for model in (plain, again)]
    assert losses[0] == losses[1]
    for loss in losses:
        loss.backward()
    for a, b in zip(plain.parameters(), again.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        assert torch.equal(a.grad, b.grad)


def test_bf16_is_near_fp32() -> None:
    """8 bits of mantissa: two roundings of half a hundredth in each of three layers."""
    model, exact = built(MODELS["gqa"], torch.bfloat16), built(MODELS["gqa"])
    exact.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
    loss = rows().loss(model)
    assert loss.total.dtype == torch.float32
    loss.total.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.bfloat16 for p in model.parameters())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    torch.testing.assert_close(loss.total, rows().loss(exact).total, rtol=2e-2, atol=0)


def test_the_future_is_not_seen() -> None:
    model, batch = built(MODELS["llama3 rope"]), rows()
    changed = batch.tokens.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % 89
    with torch.no_grad():
        before, after = (model.logits(tokens, batch.positions) for tokens in (batch.tokens, changed))
    assert torch.equal(before[:, :20], after[:, :20]) and not torch.equal(before[:, 20:], after[:, 20:])
