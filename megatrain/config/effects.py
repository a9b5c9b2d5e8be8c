"""What a change of each config key does to a run that continues: to its numbers, to the order of their
summation, or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel

from megatrain.config.tree import Config

Effect = Literal["numbers", "summation", "data", "none"]
"""`summation`: losses differ by floating-point rounding alone. `data`: what it names decides, not its value;
compared by the data fingerprint."""

# Every key stands here; a test fails for a new one. A list or optional section is one key.
EFFECTS: Mapping[Effect, str] = {
    "numbers": """
        run.seed
        model.architecture model.vocab_size model.dim model.layers model.heads model.kv_heads model.head_dim
        model.ffn_dim model.norm_eps model.rope.theta model.rope.llama3 model.tied_embeddings model.init_std
        data.phases data.sequence_length data.document_mask data.packing
        data.shuffle.kind data.shuffle.block data.shuffle.window
        precision.dtype precision.accumulation
        optimizer.name optimizer.beta1 optimizer.beta2 optimizer.eps optimizer.weight_decay optimizer.clip
        schedule.kind schedule.learning_rate schedule.final_fraction schedule.warmup_steps
        schedule.decay_steps
        train.steps train.global_batch
        resilience.not_finite resilience.spikes.action resilience.spikes.window
        resilience.spikes.warmup_updates resilience.spikes.loss_threshold resilience.spikes.loss_floor
        resilience.spikes.norm_threshold resilience.spikes.norm_floor
        resilience.max_skipped_in_row resilience.too_many_skipped resilience.max_rollbacks
        faults
    """,
    "summation": """
        parallel.tensor parallel.zero
        train.micro_batch train.recompute train.compile train.threads train.deterministic
        deepspeed.zero_optimization.reduce_bucket_size deepspeed.zero_optimization.allgather_bucket_size
        deepspeed.zero_optimization.reduce_scatter deepspeed.zero_optimization.overlap_comm
        deepspeed.zero_optimization.contiguous_gradients
        deepspeed.zero_optimization.use_multi_rank_bucket_allreduce
        deepspeed.zero_optimization.stage3_prefetch_bucket_size
        deepspeed.zero_optimization.stage3_param_persistence_threshold
        deepspeed.zero_optimization.stage3_model_persistence_threshold
        deepspeed.zero_optimization.stage3_max_live_parameters
        deepspeed.zero_optimization.stage3_max_reuse_distance
        deepspeed.zero_optimization.sub_group_size
    """,
    "data": "data.sources data.document_start tokenizer.folder",
    "none": """
        version run.name run.folder
        data.prefetch data.cache.folder data.cache.gib data.cache.ahead data.retry_s data.verify
        data.allow_change
        train.stop_after evaluate.every evaluate.windows
        checkpoint.folder checkpoint.staging checkpoint.every checkpoint.every_minutes checkpoint.keep
        checkpoint.keep_every checkpoint.keep_best checkpoint.background checkpoint.when_busy
        checkpoint.retry_s checkpoint.timeout_s checkpoint.verify checkpoint.allow_precision_change
        checkpoint.tiers checkpoint.load_weights_from checkpoint.restart_from_zero
        resilience.signals resilience.save_signal resilience.lease_s resilience.check_replicas_every
        resilience.grace_s resilience.collective_timeout_s
        resilience.watchdog.enabled resilience.watchdog.step_factor resilience.watchdog.step_floor_s
        resilience.watchdog.step_ceiling_s resilience.watchdog.start_s resilience.watchdog.evaluate_s
        resilience.watchdog.save_s resilience.watchdog.heartbeat_s
        resilience.restarts.most resilience.restarts.without_progress resilience.restarts.wait_s
        resilience.stragglers.every resilience.stragglers.ratio resilience.stragglers.least_s
        resilience.selfcheck.enabled resilience.selfcheck.ratio resilience.selfcheck.bad
        resilience.alert.command resilience.alert.url_variable resilience.alert.events
        observe.print_every observe.wandb observe.wandb_project observe.peak_tflops observe.sample_ids
        cluster.launcher cluster.processes cluster.hostfile cluster.master_addr cluster.master_port
        export.dtype export.shard_gib
        deepspeed.zero_optimization.log_trace_cache_warnings
        deepspeed.comms_logger deepspeed.flops_profiler deepspeed.wall_clock_breakdown
        deepspeed.memory_breakdown deepspeed.dump_state
    """,
}


def effect_of() -> dict[str, Effect]:
    """Return the effect of each key."""
    return {key: effect for effect, keys in EFFECTS.items() for key in keys.split()}


def leaves(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each key and its value; a list or optional section is one value."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def settings_of(config: Config) -> dict[str, Any]:
    """Return what decides a run's numbers: key → value as JSON has it, without keys of no effect.

    Of data.sources the weights count alone; which shards they are says the data fingerprint.
    """
    effects = effect_of()
    tree = {key: _plain(value) for key, value in leaves(config) if effects.get(key, "numbers") in KEPT}
    weights = {
        source.name or source.path: source.weight
        for source in config.data.sources
        if source.weight is not None
    }
    return {**tree, "data.sources": weights}


KEPT = ("numbers", "summation")


def _plain(value: Any) -> Any:
    match value:
        case BaseModel():
            return value.model_dump(mode="json")
        case tuple() | list():
            return [_plain(one) for one in value]
        case _:
            return value
