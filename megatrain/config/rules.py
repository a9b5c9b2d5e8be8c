"""Rules that tie several keys together; each names the key, the value, the rule and the mend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatrain.config.data_rules import check_data
from megatrain.config.tree import Config
from megatrain.errors import UserError, require
from megatrain.faults import ACTIONS, NUMBERS, POINTS

# Raw DeepSpeed keys that megatrain sets itself, with the key of our own that decides them.
OWNED = {
    "train_batch_size": "train.global_batch",
    "train_micro_batch_size_per_gpu": "train.micro_batch",
    "gradient_accumulation_steps": "train.global_batch and train.micro_batch",
    "gradient_clipping": "optimizer.clip",
    "optimizer": "optimizer",
    "scheduler": "schedule",
    "bf16": "precision.dtype",
    "data_types": "precision.accumulation",
    "zero_optimization.stage": "parallel.zero",
    "tensor_parallel": "parallel.tensor",
    "wandb": "observe.wandb",
    "checkpoint": "checkpoint",
    "data_efficiency": "data",
    "steps_per_print": "observe.print_every",
    "activation_checkpointing": "train.recompute",
    "compile": "train.compile",
}
_OFFLOAD = "offload is not supported: checkpoints could not be read on another layout"
_QUANTISED = "quantised communication changes the numbers; resume would not be exact"
_MICS = "MiCS shards over sub-groups; checkpoints do not know them"
# What megatrain does not support, with the reason.
UNSUPPORTED = {
    "fp16": "fp16 needs a loss scale that the checkpoint does not carry; use precision.dtype=bf16 or fp32",
    "amp": "apex is not supported; use precision.dtype=bf16",
    "torch_autocast": "use precision.dtype=bf16: parameters in bf16 with fp32 master weights",
    "zero_optimization.offload_optimizer": _OFFLOAD,
    "zero_optimization.offload_param": _OFFLOAD,
    "zero_optimization.zero_hpz_partition_size": "hpZ keeps second copies that checkpoints do not know",
    "zero_optimization.zero_quantized_weights": _QUANTISED,
    "zero_optimization.zero_quantized_gradients": _QUANTISED,
    "zero_optimization.mics_shard_size": _MICS,
    "zero_optimization.mics_hierarchical_params_gather": _MICS,
    "zero_optimization.round_robin_gradients": "it changes which rank holds what; checkpoints do not know it",
    "sparse_gradients": "sparse gradients are not supported",
    "pipeline": "pipeline stages are not supported yet",
    "sequence_parallel_size": "not supported yet: DeepSpeed scales its gradients wrongly here",
    "curriculum_learning": "the order of samples is megatrain's own",
    "elasticity": "any number of ranks runs any global batch already",
    "communication_data_type": "it changes the precision of reduced gradients; set precision.accumulation",
    "prescale_gradients": "the loss is normalised by the valid tokens of the global batch already",
    "compression_training": "compression is not supported",
    "autotuning": "autotuning is not supported",
}
# Raw settings that are safe to hand over. Everything else is refused, so that a typo never passes in silence.
PASSED = {
    "zero_optimization": {
        "reduce_bucket_size",
        "allgather_bucket_size",
        "allgather_partitions",
        "reduce_scatter",
        "overlap_comm",
        "contiguous_gradients",
        "stage3_prefetch_bucket_size",
        "stage3_param_persistence_threshold",
        "stage3_model_persistence_threshold",
        "stage3_max_live_parameters",
        "stage3_max_reuse_distance",
        "sub_group_size",
        "use_multi_rank_bucket_allreduce",
        "log_trace_cache_warnings",
    },
    "wall_clock_breakdown": None,
    "memory_breakdown": None,
    "dump_state": None,
    "comms_logger": None,
    "flops_profiler": None,
    "gradient_predivide_factor": None,
    "disable_allgather": None,
}
# Of these the ones that are on or off; the other settings of zero_optimization are sizes.
_FLAGS = {
    "allgather_partitions",
    "reduce_scatter",
    "overlap_comm",
    "contiguous_gradients",
    "use_multi_rank_bucket_allreduce",
    "log_trace_cache_warnings",
}


def check_rules(config: Config) -> None:
    """Raise UserError for the first rule that the config breaks."""
    _check_model(config)
    _check_training(config)
    check_data(config.data)
    _check_checkpoint(config)
    _check_cluster(config)
    _check_faults(config)
    spikes = config.resilience.spikes
    require(
        spikes.warmup_updates <= spikes.window,
        f"resilience.spikes.warmup_updates ({spikes.warmup_updates}) must not be above "
        f"resilience.spikes.window ({spikes.window}): so many are never kept",
    )
    _check_deepspeed(config.deepspeed)


def _check_model(config: Config) -> None:
    model, tensor = config.model, config.parallel.tensor
    require(
        model.heads % model.kv_heads == 0,
        f"model.heads ({model.heads}) must be a multiple of model.kv_heads ({model.kv_heads})",
    )
    require(model.head_dim % 2 == 0, f"model.head_dim ({model.head_dim}) must be even: RoPE turns pairs")
    scaling = model.rope.llama3
    require(
        scaling is None or scaling.low_freq_factor < scaling.high_freq_factor,
        f"model.rope.llama3.low_freq_factor ({scaling and scaling.low_freq_factor}) must be below "
        f"high_freq_factor ({scaling and scaling.high_freq_factor})",
    )
    for key, value in (
        ("model.heads", model.heads),
        ("model.kv_heads", model.kv_heads),
        ("model.ffn_dim", model.ffn_dim),
        ("model.vocab_size", model.vocab_size),
    ):
        up = -(-value // tensor) * tensor
        require(
            value % tensor == 0,
            f"{key} ({value}) must be a multiple of parallel.tensor ({tensor}); "
            + (
                f"pad it to {up}" if key in ("model.vocab_size", "model.ffn_dim") else "lower parallel.tensor"
            ),
        )


def _check_training(config: Config) -> None:
    train, schedule = config.train, config.schedule
    require(
        config.parallel.zero >= 1,
        "parallel.zero (0) must be 1, 2 or 3: with stage 0 DeepSpeed's gradient norm is absent or wrong",
    )
    require(
        train.micro_batch <= train.global_batch,
        f"train.micro_batch ({train.micro_batch}) must not be above "
        f"train.global_batch ({train.global_batch}); lower it",
    )
    require(
        schedule.warmup_steps < train.steps,
        f"schedule.warmup_steps ({schedule.warmup_steps}) must be below train.steps ({train.steps})",
    )
    if schedule.decay_steps is not None:
        require(
            schedule.kind == "wsd", f"schedule.decay_steps is read only by kind=wsd, not by {schedule.kind}"
        )
        require(
            schedule.warmup_steps + schedule.decay_steps <= train.steps,
            f"schedule.warmup_steps ({schedule.warmup_steps}) + schedule.decay_steps "
            f"({schedule.decay_steps}) must not be above train.steps ({train.steps})",
        )
    require(
        config.precision.dtype == "bf16" or config.precision.accumulation == "fp32",
        "precision.accumulation (bf16) needs precision.dtype=bf16",
    )
    require(
        not (config.parallel.zero == 3 and train.compile == "block"),
        "train.compile (block) cannot be used with parallel.zero=3: DeepSpeed gathers parameters by hooks "
        "that must stay outside the compiled block; use train.compile=engine or none",
    )


def _check_checkpoint(config: Config) -> None:
    tiers = [tier.folder for tier in config.checkpoint.tiers]
    for folder in tiers:
        require(
            "://" not in folder and folder.startswith("/"),
            f"checkpoint.tiers: folder ({folder}) must be an absolute path on each node's own disk; "
            "a URL belongs into checkpoint.folder",
        )
    require(len(set(tiers)) == len(tiers), "checkpoint.tiers: the same folder is named twice")
    require(
        config.checkpoint.keep_best == 0 or config.evaluate.every > 0,
        f"checkpoint.keep_best ({config.checkpoint.keep_best}) needs evaluate.every above 0: the validation "
        "loss of a checkpoint is that of its own step",
    )


def _check_cluster(config: Config) -> None:
    cluster, watchdog = config.cluster, config.resilience.watchdog
    require(
        cluster.hostfile is None or (cluster.launcher == "deepspeed" and cluster.processes is None),
        f"cluster.hostfile ({cluster.hostfile}) is read by cluster.launcher=deepspeed and says how many "
        "ranks each host gets: leave cluster.processes out",
    )
    require(
        cluster.master_addr is None or cluster.hostfile is not None,
        f"cluster.master_addr ({cluster.master_addr}) is read only with a cluster.hostfile",
    )
    require(
        config.resilience.selfcheck.bad != "exclude" or cluster.hostfile is not None,
        "resilience.selfcheck.bad (exclude) needs a cluster.hostfile: there is no other host to take",
    )
    require(
        watchdog.step_floor_s <= watchdog.step_ceiling_s,
        f"resilience.watchdog.step_floor_s ({watchdog.step_floor_s:g}) must not be above step_ceiling_s "
        f"({watchdog.step_ceiling_s:g})",
    )


def _check_faults(config: Config) -> None:
    for fault in config.faults:
        require(fault.at in POINTS, f"faults: at ({fault.at}) is none of {', '.join(POINTS)}")
        allowed = NUMBERS.get(fault.at, ACTIONS)
        require(fault.do in allowed, f"faults: do ({fault.do}) at {fault.at} is none of {', '.join(allowed)}")


def _check_deepspeed(raw: Mapping[str, Any], prefix: str = "") -> None:
    allowed = PASSED if not prefix else PASSED[prefix.rstrip(".")] or set()
    for key, value in raw.items():
        path = f"{prefix}{key}"
        if path in OWNED:
            raise UserError(f"deepspeed.{path} is owned by megatrain: set {OWNED[path]} instead")
        if path in UNSUPPORTED:
            raise UserError(f"deepspeed.{path} is not supported: {UNSUPPORTED[path]}")
        require(
            key in allowed,
            f"deepspeed.{path} is not a DeepSpeed setting that megatrain passes through; "
            f"it passes: {', '.join(sorted(prefix + name for name in allowed))}",
        )
        if not prefix and PASSED[key] is not None:
            require(isinstance(value, Mapping), f"deepspeed.{path} must be a section, not {value!r}")
            _check_deepspeed(value, f"{path}.")
        elif prefix:
            # DeepSpeed would find it in every rank, after the launch.
            if key in _FLAGS:
                good, kind = value in (True, False), "true or false"
            else:
                whole = isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0
                good, kind = whole and value > 0, "a whole number above 0"
            require(good, f"deepspeed.{path} ({value!r}) must be {kind}")
