"""Which parameters decay, and what a veto leaves as it was."""

import copy

import torch

from megatrain.config import ModelConfig, OptimizerConfig
from megatrain.model import Transformer
from megatrain.train.optimizer import build_optimizer


def test_matrices_decay_and_norms_do_not() -> None:
    config = ModelConfig(
        vocab_size=8, dim=4, layers=2, heads=2, kv_heads=1, head_dim=2, ffn_dim=4, tied_embeddings=True
    )
    model = Transformer(config)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    config_of_it = OptimizerConfig(weight_decay=0.3, beta1=0.8, eps=1e-7)
    optimizer = build_optimizer(matrices, vectors, config_of_it)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name: decays[id(p)] for name, p in model.named_parameters()} == {
        name: 0.0 if "norm" in name else 0.3 for name, _ in model.named_parameters()
    }
    assert len(decays) == len(list(model.parameters())), "a tied weight is there once"
    for group in optimizer.param_groups:
        assert group["betas"] == (0.8, 0.95) and group["eps"] == 1e-7 and group["fused"]


def test_a_veto_changes_nothing() -> None:
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(3))]
    optimizer = build_optimizer(parameters[:1], parameters[1:], OptimizerConfig())
    twin = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    peer = torch.optim.AdamW(
        [{"params": twin[:1], "weight_decay": 0.1}, {"params": twin[1:], "weight_decay": 0.0}],
        lr=0.0,
        betas=(0.9, 0.95),
        fused=True,
    )
    for step, veto in enumerate((False, True, False, True)):
        for p, q in zip(parameters, twin, strict=True):
            p.grad = torch.full_like(p, float("nan")) if veto else torch.randn_like(p)
            q.grad = p.grad.clone()
        for group in (*optimizer.param_groups, *peer.param_groups):
            group["lr"] = 0.1 * (step + 1)
        before = copy.deepcopy(optimizer.state_dict()["state"])
        optimizer.accepts = lambda veto=veto: not veto
        optimizer.step()
        if veto:
            after = optimizer.state_dict()["state"]
            assert all(torch.equal(before[n][key], after[n][key]) for n in before for key in before[n])
        else:
            peer.step()
        assert all(torch.equal(p, q) for p, q in zip(parameters, twin, strict=True))
