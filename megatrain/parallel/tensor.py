"""The plan applied: layers of a plain model are replaced by those that hold one rank's slice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from megatrain.parallel.collectives import enter_split, leave_split
from megatrain.parallel.context import Axis
from megatrain.parallel.cross_entropy import CrossEntropySum
from megatrain.parallel.plan import (
    Column,
    Layout,
    Plan,
    Replicated,
    Row,
    Vocab,
    layout_of,
    local_shape,
    rule_of,
)


class ColumnLinear(nn.Module):
    """Holds some output features; every rank has the whole input."""

    def __init__(self, weight: nn.Parameter, axis: Axis) -> None:
        super().__init__()
        self.weight, self.axis = weight, axis

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(enter_split(x, self.axis), self.weight)


class RowLinear(nn.Module):
    """Holds some input features; the ranks' outputs are summed."""

    def __init__(self, weight: nn.Parameter, axis: Axis) -> None:
        super().__init__()
        self.weight, self.axis = weight, axis

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return leave_split(F.linear(x, self.weight), self.axis)


class VocabEmbedding(nn.Module):
    """Holds the rows of some ids; the others add zero."""

    def __init__(self, weight: nn.Parameter, axis: Axis) -> None:
        super().__init__()
        self.weight, self.axis = weight, axis

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        own = tokens - self.axis.rank * self.weight.shape[0]
        inside = (own >= 0) & (own < self.weight.shape[0])
        rows = F.embedding(own.clamp(0, self.weight.shape[0] - 1), self.weight)
        return leave_split(rows * inside[..., None].to(rows.dtype), self.axis)


def apply_plan(model: nn.Module, plan: Plan, axis: Axis) -> Layout:
    """Replace the layers that the plan splits, in place; parameters stay on the device (mostly meta) they
    were on.

    A parameter that two modules share stays shared. Returns what this rank holds of which logical tensors.
    """
    layout = layout_of([(name, tuple(p.shape)) for name, p in model.named_parameters()], plan, axis)
    slices: dict[int, nn.Parameter] = {}
    for name, parameter in list(model.named_parameters()):
        whole = axis.size == 1 or isinstance(rule_of(plan, name.rpartition(".")[0]), Replicated)
        part = parameter if whole else nn.Parameter(parameter.new_empty(local_shape(layout[name])))
        # Read by DeepSpeed's gradient norm: a sliced parameter counts on every rank, a replicated one once.
        part.tensor_model_parallel = not isinstance(rule_of(plan, name.rpartition(".")[0]), Replicated)  # type: ignore[attr-defined]
        slices[id(parameter)] = part
    for name, module in list(model.named_modules()):
        split = _split_module(module, name, plan, axis, slices)
        if split is not None:
            model.set_submodule(name, split)
    return layout


def _split_module(
    module: nn.Module, name: str, plan: Plan, axis: Axis, slices: dict[int, nn.Parameter]
) -> nn.Module | None:
    if isinstance(module, CrossEntropySum):
        return CrossEntropySum(axis) if isinstance(rule_of(plan, name), Vocab) else None
    if axis.size == 1 or not isinstance(module, nn.Linear | nn.Embedding):
        return None  # the plain layers are the split ones of an axis of size 1
    weight = slices[id(module.weight)]
    match rule_of(plan, name):
        case Vocab() if isinstance(module, nn.Embedding):
            return VocabEmbedding(weight, axis)
        case Column() | Vocab():
            return ColumnLinear(weight, axis)
        case Row():
            return RowLinear(weight, axis)
        case Replicated():
            return None
