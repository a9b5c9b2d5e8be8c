"""How configs are read: what a notation means, what an override may do, which paths expand; limits."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from data_tools.config import DataConfig
from data_tools.config import load_config as load_data_config
from data_tools.steps import STEPS
from data_tools.where import Local, Ray, Slurm
from megatrain.cli.main import _parser
from megatrain.config import Config, load_config, parse_config, to_yaml
from megatrain.errors import UserError
from megatrain.settings import expanded, parse_settings
from megatrain.settings.notation import parse_yaml
from megatrain.settings.paths import path, path_text

DATA = "output: out\nsources: {a: {files: [x.txt]}}\n"


def error_of(text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        parse_config(text, overrides, where="c.yaml")
    assert "\n" not in str(error.value)
    return str(error.value)


def both_ways(key: str, written: str) -> Iterator[Config]:
    section, name = key.split(".")
    yield parse_config(f"{section}: {{{name}: {written}}}")
    yield parse_config(f"{section}:\n  {name}: {written}\n")
    yield parse_config("", [f"{key}={written}"])


@pytest.mark.parametrize(
    ("written", "number"),
    [("010", 10), ("00000020", 20), ("0x10", 16), ("0o10", 8), ("1_000", 1000), ("+5", 5), ("1e3", 1000)]
    + [("9007199254740993", 2**53 + 1), ("'9007199254740993'", 2**53 + 1), ("'010'", 10), ("2.0", 2)],
)
def test_a_whole_number_is_what_a_reader_takes_it_for(written: str, number: int) -> None:
    assert {config.train.threads for config in both_ways("train.threads", written)} == {number}


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("1e5", 1e5),
        (".5", 0.5),
        ("+.5", 0.5),
        ("5.", 5.0),
        ("010", 10.0),
        ("1_000.5", 1000.5),
        ("1E-4", 1e-4),
    ],
)
def test_a_number_is_what_a_reader_takes_it_for(written: str, number: float) -> None:
    assert {config.model.rope.theta for config in both_ways_theta(written)} == {number}


def both_ways_theta(written: str) -> Iterator[Config]:
    yield parse_config(f"model: {{rope: {{theta: {written}}}}}")
    yield parse_config("", [f"model.rope.theta={written}"])


@pytest.mark.parametrize("written", ["1:30", "0b1", "2026-12-01", "yes", "on", "1__0", "12 13", "1e25"])
def test_no_other_notation_becomes_a_whole_number(written: str) -> None:
    for text, overrides in ((f"train: {{steps: {written}}}", []), ("", [f"train.steps={written}"])):
        assert re.search(
            r"train\.steps.*(whole number|number is expected|too large)", error_of(text, *overrides)
        )


@pytest.mark.parametrize("written", [".inf", "-.inf", ".nan", "1e999", "nan", "inf", "yes", "1:30", "null"])
def test_no_other_notation_becomes_a_number(written: str, tmp_path: Path) -> None:
    assert "schedule.learning_rate" in error_of("", f"schedule.learning_rate={written}")
    (tmp_path / "data.yaml").write_text(DATA + f"tokenizer: {{weights: {{a: {written}}}}}")
    with pytest.raises(UserError, match=r"tokenizer\.weights\.a"):
        load_data_config(tmp_path / "data.yaml")


def test_the_value_in_a_message_is_the_one_typed() -> None:
    assert "train.steps (-007) must be above 0" in error_of("train: {steps: -007}")
    assert "run.name (null) must be text" in error_of("run: {name: null}")
    assert "data.phases.0.weights.a: a number is expected, not true or false (yes)" in error_of(
        "data: {phases: [{from_tokens: 0, weights: {a: yes}}]}"
    )


@pytest.mark.parametrize(
    "written", ["20251201", "1e5", "010", "0x10", "2026-12-01", "1:30", "yes", "true", "1.50"]
)
def test_a_key_of_text_gets_what_was_typed(written: str) -> None:
    assert {config.run.folder for config in both_ways("run.folder", written)} == {written}
    config = parse_config(
        f"data: {{sources: [{{path: {written}}}]}}\nresilience: {{alert: {{command: [{written}]}}}}"
    )
    assert (config.data.sources[0].path, config.resilience.alert.command) == (written, (written,))
    assert parse_config(to_yaml(config)) == config
    assert parse_yaml(f"{written}: 1") == {written: 1}


@pytest.mark.parametrize(("written", "value"), [("yes", True), ("On", True), ("TRUE", True), ("off", False)])
def test_switches_as_people_write_them(written: str, value: bool) -> None:
    assert {config.train.deterministic for config in both_ways("train.deterministic", written)} == {value}
    assert parse_config("observe: {wandb: off}\nresilience: {spikes: {action: false}}").observe.wandb == "off"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train=", "would drop train.steps, train.threads"),
        ("train=null", "would drop train.steps, train.threads"),
        ("train={steps: 5}", "would drop train.threads, which the config sets"),
        ("model.rope=", "would drop model.rope.llama3"),
        ("data.sources=[{path: x", "override 'data.sources=[{path: x': not valid YAML: expected"),
        ("run.name=@x", "not valid YAML: found character '@'"),
        ("run.name=a #1", "YAML reads only a part of the value"),
        ("run.name=---", "only a part"),
        ("run.name=&a b", "only a part"),
        ("run.name=*a", "undefined alias"),
        ("x=" + "[" * 5000, "nested more than 50 levels deep"),
        ("x=!!python/name:os.system", "the tag tag:yaml.org,2002:python/name:os.system is not allowed"),
        ("run.name=a\0", "not valid YAML"),
        ("train.steps=" + "9" * 5000, "cannot be read as a whole number"),
    ],
)
def test_an_override_changes_what_it_names_or_nothing(override: str, message: str) -> None:
    text = "train: {steps: 9, threads: 1}\nmodel: {rope: {llama3: {factor: 2}}}"
    began = time.monotonic()
    assert message in error_of(text, override)
    assert time.monotonic() - began < 5


def test_an_optional_section_is_turned_off_by_null() -> None:
    assert (
        parse_config("model: {rope: {llama3: {factor: 2}}}", ["model.rope.llama3=null"]).model.rope.llama3
        is None
    )


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB.encode(), "aliases repeat more than"),
        (b"train: &a {steps: *a}", "alias to itself"),
        (b"x: " + b"[" * 5000, "nested more than 50 levels deep"),
        (b"x: " + b"{a: " * 5000, "nested more than 50 levels deep"),
        (b"- " * 5000, "nested more than 50 levels deep"),
        (b"x: !!python/object/apply:os.system [id]", "is not allowed"),
        (b"x: !!timestamp 2026-12-01", "is not allowed"),
        (b"? [a]\n: 1", "a key must be text"),
        (b"train:\n\tsteps: 1", "not valid YAML"),
        (b"a: 1\n---\nb: 2", "found another document"),
        (b"train: {steps: 1\0}", "not valid YAML"),
        ("\ufefftrain: {steps: 0}".encode(), "train.steps (0) must be above 0"),
        ("train: {steps: 1}".encode("utf-16"), "not utf-8 text"),
        ("run: {name: 火}".encode("gbk"), "not utf-8 text"),
        (b"# " + b"x" * (1 << 20), "at most 1,048,576 are read"),
    ],
)
def test_what_is_no_config_is_one_line_at_once(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    began = time.monotonic()
    with pytest.raises(UserError, match=re.escape(message)) as error:
        load_config(tmp_path / "c.yaml")
    assert "\n" not in str(error.value) and time.monotonic() - began < 5


def test_a_config_is_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for place in (tmp_path / "fifo", tmp_path, tmp_path / "a\0b"):
        with pytest.raises(UserError, match="cannot be read as a config"):
            load_config(place)


def test_merge_keys_and_aliases_stay() -> None:
    assert parse_settings("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a", where="c")["b"] == {"x": 1, "y": 3}


def test_a_path_expands_its_home_and_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("RUNS", "deep/runs")
    for typed, read in {
        "~/runs/x": "/home/me/runs/x",
        "~root/x": f"{os.path.expanduser('~root')}/x",
        "${HOME}/x": "/home/me/x",
        "$HOME/$RUNS": "/home/me/deep/runs",
        "s3://bucket/$RUNS/~/x": "s3://bucket/deep/runs/~/x",
        "s3://me:secret@host/x": "s3://me:secret@host/x",
        "./~/x": "./~/x",
        "a~b/~c": "a~b/~c",
        "5$/$5/a$": "5$/$5/a$",
    }.items():
        assert expanded(typed) == read == expanded(read)
        assert parse_config("", [f"run.folder={typed}"] if "://" not in typed else []).run.folder in (
            read,
            "runs/run",
        )


def test_a_path_that_cannot_be_expanded_names_key_and_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("SECRET", "hush")
    assert "run.folder: $NOT_SET/x: the environment variable NOT_SET is not set" in error_of(
        "", "run.folder=$NOT_SET/x"
    )
    assert "run.folder: ${}/x: the environment variable  is" in error_of("", "run.folder=${}/x")
    assert "the environment variable EMPTY is not set" in error_of("data: {sources: [{path: $EMPTY/x}]}")
    assert "there is no home of ~nobody-here" in error_of("", "tokenizer.folder=~nobody-here/x")
    assert "a password in a URL would be stored" in error_of("", "checkpoint.folder=s3://me:$SECRET@host/x")
    (tmp_path / "data.yaml").write_text(DATA)
    with pytest.raises(UserError, match=r"sources\.a\.files\.0: \$NOT_SET: the environment variable"):
        load_data_config(tmp_path / "data.yaml", ["sources.a.files=['@$NOT_SET']"])
    with pytest.raises(SystemExit):
        _parser().parse_args(["report", "$NOT_SET/x"])
    assert "RUN: $NOT_SET/x: the environment variable NOT_SET is not set" in capsys.readouterr().err


NAMES_A_PLACE = re.compile(r"folder|path|file|output|root|staging|^model$|director|^by_language$")


def sections(kind: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    if kind in seen:
        return
    seen.add(kind)
    yield kind
    for field in kind.model_fields.values():
        for inner in models_in(field.annotation):
            yield from sections(inner, seen)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)


def holds_text(annotation: Any) -> bool:
    return annotation is str or any(holds_text(inner) for inner in get_args(annotation))


def test_every_key_that_names_a_place_is_a_path() -> None:
    kinds = [*sections(Config, set()), *sections(DataConfig, set()), *STEPS.values(), Local, Slurm, Ray]
    assert len(kinds) > 45
    found = []
    for kind in kinds:
        for name, field in kind.model_fields.items():
            if NAMES_A_PLACE.search(name) and holds_text(field.annotation):
                written = f"{field.annotation} {field.metadata}"
                found.append(f"{kind.__name__}.{name}")
                assert "expanded" in written or "_listed" in written, f"{kind.__name__}.{name}: no PathText"
    assert len(found) >= 18, found


def test_every_argument_that_names_a_place_is_a_path() -> None:
    def parsers(parser: Any) -> Iterator[Any]:
        yield parser
        for action in parser._actions:
            for inner in (action.choices or {}).values() if isinstance(action.choices, dict) else ():
                yield from parsers(inner)

    places = re.compile(
        r"FILE|FOLDER|DATASET|RUN|CONFIG|PATH|MODEL|folder|^out$|^tokenizer$|^config$|^where$"
    )
    others = ("SPLIT/SOURCE:N", "SPLIT/SOURCE=PATH")
    found = 0
    for parser in parsers(_parser()):
        for action in parser._actions:
            named = [str(action.metavar), action.dest] if action.metavar else [action.dest]
            if action.choices or action.metavar in others or not any(map(places.search, named)):
                continue
            assert action.type in (path, path_text), f"{parser.prog}: {named}"
            found += 1
    assert found >= 28, found
