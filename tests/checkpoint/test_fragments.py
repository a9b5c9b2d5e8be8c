"""DeepSpeed's internals are where fragments.py looks for them: a new version that moves them fails here."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch

from megatrain.checkpoint.boxes import Box
from megatrain.checkpoint.fragments import KINDS, master_partitions
from megatrain.checkpoint.manifest import covered_once
from megatrain.config import Config
from megatrain.parallel.context import ParallelContext
from tests.distributed.ranks import run_ranks
from tests.distributed.training import act, fresh_state, open_engine, play, steps, tiny

# (ZeRO stage, dtype) → the class, and the attributes that fragments.py reads.
LAZY = "_lazy_init_hp_params_optimizer_state"
NORM = "_global_grad_norm"  # which engine.py reads when the client optimizer is called
CLASSES = {
    (1, "fp32"): (
        "DeepSpeedZeroOptimizer",
        ("single_partition_of_fp32_groups", "update_lp_params", LAZY, NORM),
    ),
    (2, "bf16"): (
        "DeepSpeedZeroOptimizer",
        ("single_partition_of_fp32_groups", "update_lp_params", LAZY, NORM),
    ),
    (1, "bf16"): ("BF16_Optimizer", ("fp32_groups_flat_partition", "update_lp_params", LAZY, NORM)),
    (3, "fp32"): (
        "DeepSpeedZeroOptimizer_Stage3",
        (
            "fp32_partitioned_groups_flat",
            "fp16_partitioned_groups_flat",
            "fp16_partitioned_groups",
            "persistent_parameters",
            "dp_process_group",
            "unflatten",
            "_get_fp32_opt_state_partition",
            NORM,
        ),
    ),
}
PARAMETER = {1: ("_hp_mapping",), 2: ("_hp_mapping",), 3: ("ds_tensor", "ds_numel")}


def look(config: Config, context: ParallelContext) -> dict[str, Any]:
    """What this rank's optimizer looks like and holds, and whether its views are live."""
    import deepspeed

    engine = open_engine(config, context)
    optimizer = engine.deepspeed.optimizer
    held = engine.held()
    zero_at_first = all(not h.data.any() for h in held if not h.tensor.startswith("weights/"))
    before = [h.data.clone() for h in held]
    addresses = [h.data.data_ptr() for h in held]
    steps(engine, config, fresh_state(config), 1)
    again = engine.held()
    partitions = {t.untyped_storage().data_ptr() for t in master_partitions(optimizer)} | {
        t.untyped_storage().data_ptr() for entry in optimizer.optimizer.state.values() for t in entry.values()
    }
    return {
        "version": deepspeed.__version__,
        "class": type(optimizer).__name__,
        "has": [n for n in CLASSES[config.parallel.zero, config.precision.dtype][1] if hasattr(optimizer, n)],
        "parameter": sorted(
            {n for p in engine.model.parameters() for n in PARAMETER[config.parallel.zero] if hasattr(p, n)}
        ),
        "zero at first": zero_at_first,
        "moved": sum(not torch.equal(old, h.data) for old, h in zip(before, held, strict=True)) / len(held),
        "same memory": addresses == [h.data.data_ptr() for h in again],
        "live": all(h.data.untyped_storage().data_ptr() in partitions for h in held),
        "fp32": {str(h.data.dtype) for h in held},
        "boxes": [(h.tensor, h.shape, h.box, h.owner) for h in held],
    }


@pytest.mark.parametrize("tensor", [1, 2])
def test_every_value_has_one_owner_and_is_live(tensor: int) -> None:
    configs = {
        key: tiny(f"parallel.tensor={tensor}", f"parallel.zero={key[0]}", f"precision.dtype={key[1]}")
        for key in CLASSES
    }
    by_rank = run_ranks(play, 2 * tensor, [act(look, config) for config in configs.values()])
    for number, (key, (name, attributes)) in enumerate(CLASSES.items()):
        ranks = [results[number] for results in by_rank]
        told = (
            f"DeepSpeed {ranks[0]['version']} has moved what checkpoints need (ZeRO {key[0]}, {key[1]}): "
            "mend megatrain/checkpoint/fragments.py and megatrain/train/engine.py"
        )
        boxes: dict[str, list[Box]] = defaultdict(list)
        copies: dict[str, int] = defaultdict(int)
        shapes: dict[str, tuple[int, ...]] = {}
        for found in ranks:
            assert found["class"] == name, told
            assert found["has"] == list(attributes), told
            assert found["parameter"] == sorted(PARAMETER[key[0]]), told
            assert found["zero at first"] and found["same memory"] and found["live"], told
            assert found["moved"] > 0.9, f"{told}: views are not what the optimizer updates"
            assert found["fp32"] == {"torch.float32"}, told
            for tensor_name, shape, box, owner in found["boxes"]:
                shapes[tensor_name] = shape
                copies[tensor_name] += box.numel
                if owner:
                    boxes[tensor_name].append(box)
        assert {n.partition("/")[0] for n in shapes} == set(KINDS)
        for tensor_name, shape in shapes.items():
            assert covered_once(shape, boxes[tensor_name]), f"{told}: {tensor_name}"
            numel = torch.Size(shape).numel()
            assert copies[tensor_name] == numel * (tensor if "norm" in tensor_name else 1), tensor_name
    assert len(shapes) == 3 * (
        3 + 2 * 9
    )  # embedding, norm, head; in a layer 2 norms, wq wk wv wo, gate up down


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(TypeError, match="not an optimizer that megatrain knows: object"):
        master_partitions(object())
