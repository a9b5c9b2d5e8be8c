"""An independent peer: one process, no DeepSpeed, AdamW and clipping written out from their formulas."""

from __future__ import annotations

import numpy as np
import torch

from megatrain.config import Config
from megatrain.data.batch import make_batch
from megatrain.data.documents import documents_of
from megatrain.model.init import build_model
from megatrain.parallel.context import ParallelContext
from megatrain.train.schedule import learning_rate
from tests.distributed.training import EOS, Record, window_of


def plain_run(config: Config, count: int) -> list[Record]:
    """The whole global batch at once, in fp32."""
    model, _ = build_model(
        config.model, ParallelContext.single(), seed=config.run.seed, dtype=torch.float32, documents=True
    )
    parameters = list(model.parameters())
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    records = []
    for step in range(count):
        first = step * config.train.global_batch
        windows = np.stack([window_of(first + row, config) for row in range(config.train.global_batch)])
        batch = make_batch(
            windows,
            np.full(len(windows), windows.shape[1]),
            eos_id=EOS,
            documents=documents_of(config.data),
        )
        total, tokens = model(batch.tokens, batch.labels, batch.positions, batch.loss_mask)
        loss = total / tokens
        gradients = torch.autograd.grad(loss, parameters)
        norm = float(torch.sqrt(sum(g.double().square().sum() for g in gradients)))
        factor = min(1.0, config.optimizer.clip / norm)
        rate = learning_rate(step, config.schedule, config.train.steps)
        for parameter, gradient, (m, v) in zip(parameters, gradients, moments, strict=True):
            _adamw(parameter, gradient * factor, m, v, step + 1, rate, config)
        records.append({"loss": loss.item(), "norm": norm, "valid": int(tokens)})
    return records


@torch.no_grad()
def _adamw(
    parameter: torch.Tensor,
    gradient: torch.Tensor,
    m: torch.Tensor,
    v: torch.Tensor,
    step: int,
    rate: float,
    config: Config,
) -> None:
    """Algorithm 2 of arXiv 1711.05101, as torch has it (the decay is scaled by the learning rate)."""
    o = config.optimizer
    decay = o.weight_decay if parameter.dim() >= 2 else 0.0
    parameter.mul_(1 - rate * decay)
    m.mul_(o.beta1).add_(gradient, alpha=1 - o.beta1)
    v.mul_(o.beta2).add_(gradient.square(), alpha=1 - o.beta2)
    denominator = (v / (1 - o.beta2**step)).sqrt() + o.eps
    parameter.sub_(rate / (1 - o.beta1**step) * m / denominator)
