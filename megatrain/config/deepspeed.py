"""The section `deepspeed`: what DeepSpeed may be told directly, and why the rest is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from megatrain.config.section import PositiveInt, Section, Whole
from megatrain.settings import PathText

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
    "gradient_predivide_factor": "gradients are reduced in fp32, and ZeRO 2 and 3 cannot divide them before",
    "compression_training": "compression is not supported",
    "autotuning": "autotuning is not supported",
}
_STAGE_3 = (
    "stage3_prefetch_bucket_size",
    "stage3_param_persistence_threshold",
    "stage3_model_persistence_threshold",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
    "sub_group_size",
    "log_trace_cache_warnings",
)
# Keys of zero_optimization that DeepSpeed's engine hands to the optimizer of these stages alone
# (runtime/engine.py, _configure_zero_optimizer; runtime/zero/stage3.py reads none of the second kind).
STAGES = {
    **dict.fromkeys(_STAGE_3, (3,)),
    "allgather_bucket_size": (1, 2),
    "use_multi_rank_bucket_allreduce": (1, 2),
}


class RawSection(Section):
    """What is left out stays out, so that DeepSpeed's own default holds."""

    @model_serializer(mode="wrap")
    def _without_nulls(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


class RawZeroConfig(RawSection):
    reduce_bucket_size: PositiveInt | None = None
    """Elements reduced at once; default: what the model needs, 5e8 at most."""
    allgather_bucket_size: PositiveInt | None = None
    """Elements gathered at once; default: what the model needs, 5e8 at most."""
    reduce_scatter: bool | None = None
    """Gradients are reduced to their owners alone."""
    overlap_comm: bool | None = None
    """Reduce while the backward pass goes on."""
    contiguous_gradients: bool | None = None
    """Gradients are copied into one buffer as they come."""
    use_multi_rank_bucket_allreduce: bool | None = None
    """One reduction for a bucket of several owners."""
    stage3_prefetch_bucket_size: Annotated[Whole, Field(ge=0)] | None = None
    """Elements gathered ahead."""
    stage3_param_persistence_threshold: Annotated[Whole, Field(ge=0)] | None = None
    """Parameters with fewer elements are never parted."""
    stage3_model_persistence_threshold: PositiveInt | None = None
    """Most elements that are never parted, all together."""
    stage3_max_live_parameters: PositiveInt | None = None
    """Most elements that lie gathered on a rank."""
    stage3_max_reuse_distance: PositiveInt | None = None
    """What is used again within so many elements stays gathered."""
    sub_group_size: PositiveInt | None = None
    """Elements that the optimizer updates at once."""
    log_trace_cache_warnings: bool | None = None
    """Log when the order of layers, which prefetching follows, changes."""


class CommsLoggerConfig(RawSection):
    """DeepSpeed's times and sizes of its collectives, in the log of rank 0."""

    enabled: bool | None = None
    """Measure."""
    verbose: bool | None = None
    """A line for each collective; must be true."""
    prof_all: bool | None = None
    """All kinds of collectives."""
    prof_ops: tuple[str, ...] | None = None
    """These kinds, e.g. [all_reduce, all_gather]."""
    debug: bool | None = None
    """With the name of the caller."""


class FlopsProfilerConfig(RawSection):
    """DeepSpeed's FLOPs, times and parameters of each module in one step."""

    enabled: bool | None = None
    """Profile."""
    profile_step: PositiveInt | None = None
    """The step to look at."""
    module_depth: Annotated[Whole, Field(ge=-1)] | None = None
    """Levels of modules told; -1: all."""
    top_modules: PositiveInt | None = None
    """The largest so many of each level."""
    detailed: bool | None = None
    """The whole tree of modules."""
    output_file: PathText | None = None
    """Where the profile goes; default: the output of rank 0."""
    recompute_fwd_factor: Annotated[Whole, Field(ge=0)] | None = None
    """Forward passes that recomputation adds."""


class DeepSpeedConfig(RawSection):
    """Raw DeepSpeed settings that megatrain passes on. What is left out has DeepSpeed's own default."""

    zero_optimization: RawZeroConfig = RawZeroConfig()
    comms_logger: CommsLoggerConfig | None = None
    flops_profiler: FlopsProfilerConfig | None = None
    wall_clock_breakdown: bool | None = None
    """Times of forward, backward and step, on the terminal."""
    memory_breakdown: bool | None = None
    """Memory at several points of each step, on the terminal."""
    dump_state: bool | None = None
    """DeepSpeed's engine and config, in the log of rank 0."""


def without_effect(config: DeepSpeedConfig, stage: int) -> dict[str, str]:
    """Return the keys that are set and that DeepSpeed does not read in this ZeRO stage, and why not."""
    zero, only = config.zero_optimization, "DeepSpeed reads it only with parallel.zero"
    found = {
        f"zero_optimization.{name}": f"{only} {' or '.join(map(str, stages))}"
        for name, stages in STAGES.items()
        if stage not in stages and getattr(zero, name) is not None
    }
    if zero.reduce_scatter is False and zero.use_multi_rank_bucket_allreduce is not None:
        key = "zero_optimization.use_multi_rank_bucket_allreduce"
        found.setdefault(key, "DeepSpeed reads it only with reduce_scatter: true")
    logger, profiler = config.comms_logger, config.flops_profiler
    if logger is not None and logger.enabled is False:
        found |= _unread("comms_logger", logger)
    if profiler is not None and not profiler.enabled:
        found |= _unread("flops_profiler", profiler)
    return found


def _unread(name: str, section: RawSection) -> dict[str, str]:
    """Return the keys of a section that is not enabled."""
    set_ = [key for key, value in section if key != "enabled" and value is not None]
    return {f"{name}.{key}": f"DeepSpeed reads it only with {name}.enabled: true" for key in set_}


def refusal(location: Sequence[str]) -> str | None:
    """Why a key of the section `deepspeed` is refused, when it is known there; None: it is no such key."""
    if not location or location[0] != "deepspeed":
        return None
    path = ".".join(location[1:])
    if path in OWNED:
        return f"deepspeed.{path} is owned by megatrain: set {OWNED[path]} instead"
    if path in UNSUPPORTED:
        return f"deepspeed.{path} cannot be set: {UNSUPPORTED[path]}"
    return None
