"""Every rule that ties keys together speaks, with the key, the value and the mend."""

import json

import pytest

from megatrain.config import first_samples, parse_config, to_yaml
from megatrain.config.deepspeed import OWNED, UNSUPPORTED, RawZeroConfig, without_effect
from megatrain.config.reference import keys
from megatrain.errors import UserError


def error_of(*overrides: str) -> str:
    with pytest.raises(UserError) as error:
        parse_config("", overrides)
    return str(error.value)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (("model.heads=12", "model.kv_heads=5"), ("model.heads (12)", "multiple of model.kv_heads (5)")),
        (("model.head_dim=63",), ("model.head_dim (63)", "even")),
        (
            ("model.rope.llama3.low_freq_factor=4",),
            ("model.rope.llama3.low_freq_factor (4.0)", "below high_freq_factor (4.0)"),
        ),
        (
            ("parallel.tensor=5", "model.heads=12"),
            ("model.heads (12)", "parallel.tensor (5)", "lower parallel.tensor"),
        ),
        (
            ("parallel.tensor=4", "model.heads=12", "model.kv_heads=2"),
            ("model.kv_heads (2)", "parallel.tensor (4)", "lower parallel.tensor", "is not replicated"),
        ),
        (
            ("parallel.tensor=4", "model.ffn_dim=2050"),
            ("model.ffn_dim (2050)", "parallel.tensor (4)", "pad it to 2052"),
        ),
        (
            ("parallel.tensor=4", "model.vocab_size=50257"),
            ("model.vocab_size (50257)", "parallel.tensor (4)", "pad it to 50260"),
        ),
        (("parallel.zero=0",), ("parallel.zero (0)", "1, 2 or 3")),
        (
            ("train.micro_batch=8", "train.global_batch=4"),
            ("train.micro_batch (8)", "train.global_batch (4)"),
        ),
        (
            ("schedule.warmup_steps=50", "train.steps=50"),
            ("schedule.warmup_steps (50)", "train.steps (50)"),
        ),
        (("schedule.decay_steps=5",), ("schedule.decay_steps", "kind=wsd", "cosine")),
        (
            ("schedule.kind=wsd", "schedule.warmup_steps=10", "schedule.decay_steps=95", "train.steps=100"),
            ("schedule.warmup_steps (10)", "schedule.decay_steps (95)", "train.steps (100)"),
        ),
        (
            ("precision.dtype=fp32", "precision.accumulation=bf16"),
            ("precision.accumulation (bf16)", "precision.dtype=bf16"),
        ),
        (
            ("parallel.zero=3", "train.compile=block"),
            ("train.compile (block)", "parallel.zero=3", "train.compile=engine"),
        ),
        (
            ("data.sources=[{path: a, name: x, weight: 1}, {path: b}]",),
            ("data.sources", "every source has a weight or none"),
        ),
        (("data.sources=[{path: a, weight: 1}]",), ("data.sources: a has a weight (1.0)", "name")),
        (("data.sources=[{path: a}, {path: a}]",), ("data.sources", "named twice")),
        (
            (
                "data.sources=[{path: a, name: x, weight: 1}]",
                "data.phases=[{from_tokens: 0, weights: {x: 1}}]",
            ),
            ("data.sources: a has a weight (1.0)", "data.phases"),
        ),
        (
            ("data.phases=[{from_tokens: 5, weights: {x: 1}}]",),
            ("data.phases", "from_tokens=5", "begin at 0"),
        ),
        (
            (
                "data.sequence_length=100",
                "data.phases=[{from_tokens: 0, weights: {x: 1}}, {from_tokens: 201, weights: {x: 2}}, "
                "{from_tokens: 300, weights: {x: 1}}]",
            ),
            ("data.phases", "from_tokens 201 is followed by 300", "data.sequence_length (100)"),
        ),
        (("data.sources=[{path: 's3://b/x'}]",), ("data.sources: s3://b/x", "data.cache.folder")),
        (("data.cache.folder=cache",), ("data.cache.folder (cache)", "absolute path")),
        (("data.cache.folder='s3://b/c'",), ("data.cache.folder (s3://b/c)", "absolute path")),
        (
            ("deepspeed.zero_optimisation.overlap_comm=true",),
            ("unknown key deepspeed.zero_optimisation; did you mean deepspeed.zero_optimization?",),
        ),
        (
            ("deepspeed.zero_optimization.overlap_com=true",),
            ("overlap_com; did you mean deepspeed.zero_optimization.overlap_comm?",),
        ),
        (
            ("resilience.spikes.warmup_updates=65",),
            ("resilience.spikes.warmup_updates (65)", "resilience.spikes.window (64)"),
        ),
        (
            ("deepspeed.zero_optimization=3",),
            ("deepspeed.zero_optimization (3) must be a section of keys",),
        ),
        (
            ("deepspeed.zero_optimization.reduce_bucket_size=lots",),
            ("deepspeed.zero_optimization.reduce_bucket_size ('lots')", "whole number"),
        ),
        (
            ("deepspeed.zero_optimization.stage3_max_live_parameters=-5",),
            ("stage3_max_live_parameters (-5)", "must be above 0"),
        ),
        (
            ("deepspeed.zero_optimization.overlap_comm=often",),
            ("overlap_comm ('often')", "true or false"),
        ),
        (
            ("deepspeed.comms_logger.enabled=lots",),
            ("deepspeed.comms_logger.enabled ('lots')", "true or false"),
        ),
        (("deepspeed.comms_logger.prof_opts=[x]",), ("did you mean deepspeed.comms_logger.prof_ops?",)),
        (
            ("resilience.save_signal=SIGUSR1",),
            ("resilience.save_signal (SIGUSR1)", "would save and never stop"),
        ),
        (("run.folder=s3://b/x",), ("run.folder (s3://b/x)", "a URL belongs into checkpoint.folder")),
        (("run.folder=''",), ("run.folder ('') must not be empty",)),
        (("checkpoint.folder=''",), ("checkpoint.folder is empty",)),
        (("checkpoint.tiers=[{folder: /a, every: 1}, {folder: /a/, every: 2}]",), ("same folder",)),
        (("faults=[{at: data.task, do: kill}]",), ("faults: at (data.task) is none of",)),
        (("faults=[{at: saved, do: kill, rank: 1}]",), ("rank 0 alone comes there",)),
        (("train.global_batch=1e12",), ("must be at most 1e+07",)),
        (("deepspeed.zero_optimization.allgather_partitions=true",), ("unknown key",)),
        (("train.steps=500", "train.stop_after=501"), ("train.stop_after (501) must not be above", "(500)")),
        (("deepspeed.comms_logger.enabled=true",), ("deepspeed.comms_logger needs verbose: true",)),
        (("deepspeed.flops_profiler.profile_step=0",), ("profile_step (0)", "must be above 0")),
    ],
)
def test_rules(overrides: tuple[str, ...], parts: tuple[str, ...]) -> None:
    message = error_of(*overrides)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("key", OWNED)
def test_deepspeed_keys_that_megatrain_owns_name_ours(key: str) -> None:
    assert f"deepspeed.{key} is owned by megatrain: set {OWNED[key]} instead" in error_of(
        f"deepspeed.{key}=1"
    )


@pytest.mark.parametrize("key", UNSUPPORTED)
def test_unsupported_deepspeed_keys_say_why(key: str) -> None:
    assert f"deepspeed.{key} cannot be set: {UNSUPPORTED[key]}" in error_of(f"deepspeed.{key}=1")


def test_other_deepspeed_settings_pass_through_and_what_is_left_out_stays_out() -> None:
    raw = {"zero_optimization": {"reduce_bucket_size": 5e8, "overlap_comm": True}, "dump_state": False}
    raw["comms_logger"] = {"enabled": True, "verbose": True, "prof_ops": ["all_reduce"]}
    config = parse_config(f"deepspeed: {json.dumps(raw)}")
    assert config.deepspeed.model_dump(mode="json") == raw
    assert parse_config(to_yaml(config)) == config
    assert parse_config("").deepspeed.model_dump() == {"zero_optimization": {}}


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_settings_without_effect_in_a_stage_are_named(stage: int) -> None:
    every = dict.fromkeys(RawZeroConfig.model_fields, 7) | {"reduce_scatter": True, "overlap_comm": True}
    switches = ("contiguous_gradients", "use_multi_rank_bucket_allreduce", "log_trace_cache_warnings")
    raw = {"zero_optimization": every | dict.fromkeys(switches, True)}
    config = parse_config(f"deepspeed: {json.dumps(raw)}\nparallel: {{zero: {stage}}}")
    named = {key.removeprefix("zero_optimization.") for key in without_effect(config.deepspeed, stage)}
    # Both are taken by stage 3 and kept, and read by none of its methods.
    kept = {"allgather_bucket_size", "use_multi_rank_bucket_allreduce"}
    only_3 = {key for key in every if key.startswith("stage3_")} | {
        "sub_group_size",
        "log_trace_cache_warnings",
    }
    assert named == (kept if stage == 3 else only_3)


def test_settings_of_a_deepspeed_section_that_is_off_are_named() -> None:
    raw = "{comms_logger: {enabled: false, verbose: true}, flops_profiler: {profile_step: 3}, "
    raw += "zero_optimization: {reduce_scatter: false, use_multi_rank_bucket_allreduce: true}}"
    assert set(without_effect(parse_config(f"deepspeed: {raw}").deepspeed, 2)) == {
        "comms_logger.verbose",
        "flops_profiler.profile_step",
        "zero_optimization.use_multi_rank_bucket_allreduce",
    }


def test_no_deepspeed_key_is_in_two_lists() -> None:
    passed = {key.removeprefix("deepspeed.") for key in keys() if key.startswith("deepspeed.")}
    assert len(passed) > 25
    assert not passed & set(OWNED) and not passed & set(UNSUPPORTED) and not set(OWNED) & set(UNSUPPORTED)


def test_phases_begin_at_whole_samples() -> None:
    phases = "{from_tokens: 0, weights: {x: 1}}, {from_tokens: 200, weights: {x: 1}}"
    config = parse_config(
        "", [f"data.phases=[{phases}, {{from_tokens: 1e12, weights: {{x: 1}}}}]", "data.sequence_length=100"]
    )
    assert first_samples(config.data) == (0, 2, 10**10)
    assert first_samples(config.data.model_copy(update={"sequence_length": 3})) == (0, 67, 333_333_333_334)
