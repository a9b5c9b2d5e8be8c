"""Reading a config: numbers, overrides, suggestions, round trips, and that nobody changes it afterwards."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from megatrain.config import Config, derive, load_config, parse_config, to_yaml
from megatrain.errors import UserError

FULL = """
run: {name: a-run, seed: 7}
model: {dim: 64, rope: {theta: 5e5, llama3: {factor: 32}}}
data: {sources: [{path: a, name: x, weight: 1}, {path: a, name: y, weight: 2.5}], sequence_length: 128}
schedule: {kind: wsd, learning_rate: 1e-4, decay_steps: 20}
deepspeed: {zero_optimization: {reduce_bucket_size: 5e8, overlap_comm: true}, wall_clock_breakdown: true}
"""


def error_of(text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        parse_config(text, overrides, where="c.yaml")
    message = str(error.value)
    assert "\n" not in message
    return message


def test_an_empty_config_is_the_default() -> None:
    assert parse_config("") == Config() == parse_config("train:\nmodel:  # nothing set\n")


@pytest.mark.parametrize("written", ["1e-4", "1E-4", "0.0001", "1.0e-4", "'1e-4'", "+1e-4"])
def test_numbers_as_people_write_them(written: str) -> None:
    assert parse_config(f"schedule: {{learning_rate: {written}}}").schedule.learning_rate == 1e-4
    assert parse_config("", [f"schedule.learning_rate={written}"]).schedule.learning_rate == 1e-4


def test_whole_numbers_may_have_an_exponent_but_no_fraction() -> None:
    assert parse_config("train: {steps: 2e4}").train.steps == 20000
    assert isinstance(parse_config("train: {steps: 2e4}").train.steps, int)
    assert "train.steps (2.5)" in error_of("train: {steps: 2.5}")


@pytest.mark.parametrize("key", ["train.steps", "schedule.learning_rate", "run.seed"])
def test_true_is_no_number(key: str) -> None:
    assert f"{key}: a number is expected, not true or false" in error_of("", f"{key}=yes")


@pytest.mark.parametrize(
    ("path", "suggestion"),
    [
        ("model.layer", "model.layers"),
        ("model.n_heads", "model.heads"),
        ("trian.steps", "train"),
        ("optimizer.learning_rate", "schedule.learning_rate"),
        ("model.theta", "model.rope.theta"),
        ("model.rope.llama3.factr", "model.rope.llama3.factor"),
        ("tensor", "parallel.tensor"),
        ("schedule.warmup", "schedule.warmup_steps"),
        ("train.micro_batch_size", "train.micro_batch"),
    ],
)
def test_unknown_keys_get_the_nearest_name(path: str, suggestion: str) -> None:
    message = error_of("", f"{path}=1")
    assert message.startswith("c.yaml: unknown key") and f"did you mean {suggestion}?" in message


def test_an_unknown_key_that_is_near_to_none_lists_the_known_ones() -> None:
    assert "known keys: tensor, zero" in error_of("parallel: {xyzzy: 1}")
    # Told before the keys that are missing for it.
    assert "unknown key data.phases.0.from_token; did you mean data.phases.0.from_tokens?" in error_of(
        "", "data.phases=[{from_token: 0}]"
    )
    assert "unknown key data.sources.0.nam; did you mean data.sources.0.name?" in error_of(
        "data: {sources: [{path: a, nam: b}]}"
    )


@pytest.mark.parametrize(
    ("text", "overrides", "parts"),
    [
        ("model: {dim: wide}", (), ("model.dim ('wide')",)),
        ("parallel: {zero: 4}", (), ("parallel.zero (4)", "must be at most 3")),
        ("version: 2\noutput: x\nsources: {}", (), ("one for `megatrain prepare`: it has output, sources",)),
        ("precision: {dtype: fp16}", (), ("precision.dtype ('fp16')", "'fp32' or 'bf16'")),
        ("model: {dim: -1, layers: 0}", (), ("model.dim (-1)", "(and 1 more)")),
        ("schedule: {learning_rate: .nan}", (), ("schedule.learning_rate (.nan)",)),
        ("data: {sources: [{name: x}]}", (), ("data.sources.0.path",)),
        ("version: 99", (), ("version 99 is newer", "upgrade")),
        (
            "model: {dim: 1}\ntrain: {}\nmodel: {dim: 2}",
            (),
            ("c.yaml, line 3", "model stands here a second time"),
        ),
        ("model: [", (), ("c.yaml, line", "not valid YAML")),
        ("- a\n- b", (), ("mapping of sections, not a list",)),
        ("", ("train.steps",), ("'train.steps' is not of the form section.key=value",)),
        ("", ("=3",), ("is not of the form section.key=value",)),
        ("model: 3", ("model.dim=3",), ("model is not a section",)),
    ],
)
def test_errors_are_one_line_that_names_the_place(
    text: str, overrides: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    message = error_of(text, *overrides)
    assert all(part in message for part in parts), message


def test_overrides() -> None:
    config = parse_config(
        "model: {dim: 64}\nschedule:\n",
        [
            "model.dim=128",
            "--train.steps=500",
            "schedule.warmup_steps=5",
            "model.rope.llama3.factor=16",
            "run.folder=runs/a=b",
            "data.sources=[{path: x}, {path: y}]",
            "observe.wandb=off",
            "evaluate.windows=null",
            "deepspeed.zero_optimization.reduce_bucket_size=1e6",
        ],
    )
    assert (config.model.dim, config.train.steps, config.schedule.warmup_steps) == (128, 500, 5)
    assert config.model.rope.llama3 is not None and config.model.rope.llama3.factor == 16
    assert config.run.folder == "runs/a=b"
    assert [source.path for source in config.data.sources] == ["x", "y"]
    assert config.observe.wandb == "off" and config.evaluate.windows is None
    assert config.deepspeed.zero_optimization.reduce_bucket_size == 1_000_000


def test_an_override_opens_a_section_that_is_null() -> None:
    config = parse_config("model: {rope: {theta: 5e5, llama3: null}}", ["model.rope.llama3.factor=32"])
    assert config.model.rope.theta == 5e5
    assert config.model.rope.llama3 is not None and config.model.rope.llama3.factor == 32


@pytest.mark.parametrize("text", ["", FULL])
def test_yaml_round_trip(text: str, tmp_path: Path) -> None:
    config = parse_config(text)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config, {"tokens_per_step": 8192}), encoding="utf-8")
    assert path.read_text().startswith("# tokens_per_step: 8192\n")
    assert load_config(path) == config
    assert to_yaml(load_config(path)) == to_yaml(config)


def test_files_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text("")
    with pytest.raises(UserError, match=r"quikstart\.yaml: no such config; did you mean .*quickstart\.yaml"):
        load_config(tmp_path / "quikstart.yaml")
    with pytest.raises(UserError, match="cannot be read as a config"):
        load_config(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as a config"):
        load_config(tmp_path / "bytes.yaml")


def sections(section: BaseModel) -> list[BaseModel]:
    inner = [getattr(section, name) for name in type(section).model_fields]
    return [section] + [found for value in inner if isinstance(value, BaseModel) for found in sections(value)]


def test_frozen() -> None:
    config = parse_config(FULL)
    every = [*sections(config), *config.data.sources]
    assert len(every) > 18
    for section in every:
        for name in type(section).model_fields:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(section, name, getattr(section, name))


def test_derived_numbers() -> None:
    config = parse_config(
        "parallel: {tensor: 2}\ntrain: {global_batch: 10, micro_batch: 2}\ndata: {sequence_length: 128}"
    )
    derived = derive(config, 6)
    assert (derived.data_parallel, derived.accumulation, derived.padded_batch) == (3, 2, 12)
    assert derived.tokens_per_step == 1280
    assert derive(config, 2).padded_batch == 10
    for world in (0, 3):
        with pytest.raises(UserError, match=rf"parallel\.tensor \(2\) must divide .* \({world}\)"):
            derive(config, world)
