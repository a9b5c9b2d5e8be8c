"""All of DeepSpeed's internals that megatrain touches: which flat ranges of which parameter a rank holds,
and where.

Tried with the DeepSpeed that constraints.txt names; tests/checkpoint/test_fragments.py fails loudly when
another one moves them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from megatrain.checkpoint.boxes import Box, piece_boxes
from megatrain.parallel.plan import Layout

WEIGHTS, EXP_AVG, EXP_AVG_SQ = "weights", "exp_avg", "exp_avg_sq"
KINDS = (WEIGHTS, EXP_AVG, EXP_AVG_SQ)


@dataclass(frozen=True)
class Held:
    """A box of a logical tensor, and the live memory of this rank that holds it."""

    tensor: str
    """kind/logical name, e.g. "exp_avg/layers.0.attention.wq.weight"."""
    shape: tuple[int, ...]
    """Of the whole logical tensor."""
    box: Box
    data: torch.Tensor
    """A view, shaped like the box; writing to it changes the optimizer."""
    owner: bool
    """This rank writes the box; of replicated ones, one rank does."""


@dataclass(frozen=True)
class _Range:
    """A flat range of a stored parameter that this rank's optimizer holds in fp32."""

    name: str
    start: int
    flat: dict[str, torch.Tensor]


def master_partitions(optimizer: Any) -> list[torch.Tensor]:
    """The flat fp32 tensors that the client optimizer updates on this rank, of any ZeRO stage."""
    match type(optimizer).__name__:
        case "DeepSpeedZeroOptimizer":
            return list(optimizer.single_partition_of_fp32_groups)
        case "BF16_Optimizer":
            return list(optimizer.fp32_groups_flat_partition)
        case "DeepSpeedZeroOptimizer_Stage3":
            return list(optimizer.fp32_partitioned_groups_flat)
        case other:
            raise TypeError(f"not an optimizer that megatrain knows: {other}")


def make_adam_state(optimizer: Any) -> None:
    """Make Adam's entries, zero, with step count 0, before the first step.

    They must exist before a checkpoint can be read into them, and before a first step that is vetoed.
    """
    for flat in master_partitions(optimizer):
        optimizer.optimizer.state[flat] = {
            "step": torch.zeros((), dtype=torch.float32, device=flat.device),
            EXP_AVG: torch.zeros_like(flat, requires_grad=False),
            EXP_AVG_SQ: torch.zeros_like(flat, requires_grad=False),
        }
    if hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def held_boxes(module: nn.Module, optimizer: Any, layout: Layout, tensor_rank: int) -> list[Held]:
    """Every box of every logical tensor that this rank's optimizer holds, as live views."""
    held = []
    for part in _ranges(module, optimizer):
        numel = next(iter(part.flat.values())).numel()
        for piece in layout[part.name]:
            for box, at in piece_boxes(piece, part.start, part.start + numel):
                for kind, flat in part.flat.items():
                    view = flat.detach().narrow(0, at - part.start, box.numel).view(box.shape)
                    owner = tensor_rank == 0 or not piece.replicated
                    held.append(Held(f"{kind}/{piece.name}", piece.shape, box, view, owner))
    return held


def copied_boxes(module: nn.Module, layout: Layout) -> list[Held]:
    """The boxes of the low-precision weights that this rank computes with, whole with ZeRO 1 and 2.

    They follow from the fp32 weights of all data-parallel ranks; nobody owns them.
    """
    return [
        Held(f"{WEIGHTS}/{piece.name}", piece.shape, box, view.view(box.shape), owner=False)
        for name, parameter in module.named_parameters()
        for piece in layout[name]
        for box, at in piece_boxes(piece, 0, parameter.numel())
        for view in [parameter.detach().view(-1).narrow(0, at, box.numel)]
    ]


def set_adam_step(optimizer: Any, adam_step: int) -> None:
    """The number of updates so far, of every entry."""
    for entry in optimizer.optimizer.state.values():
        entry["step"].fill_(float(adam_step))


def gather_copies(optimizer: Any) -> None:
    """Collective. Make the low-precision weights anew from the fp32 weights of all data-parallel ranks."""
    if type(optimizer).__name__ != "DeepSpeedZeroOptimizer_Stage3":
        with torch.no_grad():
            optimizer.update_lp_params()
        return
    with torch.no_grad():
        for fp32, low, parts in zip(
            optimizer.fp32_partitioned_groups_flat,
            optimizer.fp16_partitioned_groups_flat,
            optimizer.fp16_partitioned_groups,
            strict=True,
        ):
            low.copy_(fp32)
            for part, updated in zip(parts, optimizer.unflatten(low, parts), strict=True):
                part.data = updated.data
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].partition(optimizer.persistent_parameters)
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


def _ranges(module: nn.Module, optimizer: Any) -> Iterator[_Range]:
    stage3 = type(optimizer).__name__ == "DeepSpeedZeroOptimizer_Stage3"
    parameters: Iterable[tuple[str, Any]] = module.named_parameters()
    for name, parameter in parameters:
        found = _stage3_range(name, parameter, optimizer) if stage3 else _fragment_range(name, parameter)
        if found is not None:
            yield found


def _fragment_range(name: str, parameter: Any) -> _Range | None:
    """ZeRO 1 and 2: this rank may hold nothing of a parameter."""
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    flat = {
        WEIGHTS: mapping.hp_fragment,
        EXP_AVG: mapping.optim_fragment[EXP_AVG],
        EXP_AVG_SQ: mapping.optim_fragment[EXP_AVG_SQ],
    }
    return _Range(name, mapping.lp_fragment_address.start, flat)


def _stage3_range(name: str, parameter: Any, optimizer: Any) -> _Range | None:
    """ZeRO 3: every parameter is cut evenly; the last ranks may hold padding, wholly or in part."""
    size = parameter.ds_tensor.ds_numel
    start = dist.get_rank(group=optimizer.dp_process_group) * size
    count = min(size, parameter.ds_numel - start)
    if count <= 0:
        return None
    flat = {}
    for kind in KINDS:
        key = None if kind == WEIGHTS else kind
        view, _ = optimizer._get_fp32_opt_state_partition(
            parameter, release_swap_buffers=False, optim_state_key=key
        )
        flat[kind] = view.flatten()[:count]
    return _Range(name, start, flat)
