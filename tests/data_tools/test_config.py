"""The config of a preparation: numbers, overrides, and errors that help."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from data_tools.config import DataConfig, load_config
from data_tools.where import Local
from megatrain.errors import UserError

REPOSITORY = Path(__file__).parents[2]
MINIMAL = "output: out\nsources: {a: {files: [x.txt]}}\n"


def _load(tmp_path: Path, text: str, *overrides: str) -> DataConfig:
    path = tmp_path / "data.yaml"
    path.write_text(text)
    return load_config(path, overrides)


def test_the_quick_start_names_files_that_are_there() -> None:
    config = load_config(REPOSITORY / "configs" / "data" / "quickstart.yaml")
    for source in config.sources.values():
        for file in source.files:
            assert (REPOSITORY / file).is_file()


def test_overrides_and_numbers(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        MINIMAL,
        "split.validation=1e-4",
        "workers=3",
        "sources.b.files=[y.txt, z.txt]",
        "output=other",
    )
    assert config.split.validation == 1e-4 and config.where == Local(workers=3) and config.output == "other"
    assert config.sources["b"].files == ("y.txt", "z.txt") and config.split.test == 0.01
    with pytest.raises(ValidationError):
        config.seed = 3  # type: ignore[misc]
    assert _load(tmp_path, MINIMAL, "workers=1", "output=x", "overwrite=true").deciding() == (
        _load(tmp_path, MINIMAL).deciding()
    )


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (MINIMAL + "tokenzier: {}", [], "unknown key tokenzier; did you mean tokenizer?"),
        (MINIMAL, ["split.validaton=0.1"], "unknown key split.validaton; did you mean validation?"),
        (MINIMAL, ["sources.a.colum=x"], "unknown key sources.a.colum"),
        (MINIMAL, ["sources.a.text_colum=x"], "did you mean text_column?"),
        (MINIMAL, ["duplicates.near.band=3"], "unknown key duplicates.near.band; did you mean bands?"),
        (MINIMAL, ["duplicates.near={preset: fineweb, row: 3}"], "near.row; did you mean rows?"),
        ("output: out\nsources: {../x: {files: [x]}}", [], "'../x' cannot name a source: it becomes"),
        ("output: out\nsources: {a/b: {files: [x]}}", [], "'a/b' cannot name a source"),
        ("output: out\nsources: {'': {files: [x]}}", [], "'' cannot name a source"),
        (MINIMAL, ["version=1", "steps=[clean]"], "config version 1 has no steps: write `version: 2`"),
        ("output: out\nsources: {a: {file: [x]}}", [], "unknown key sources.a.file; did you mean files?"),
        (MINIMAL, ["where.worker=2"], "unknown key where.worker; did you mean workers?"),
        (MINIMAL, ["where={engine: slurm, tim: 3}"], "unknown key where.tim; did you mean time?"),
        (MINIMAL, ["where.engine=slrm"], "where: no engine is called slrm; known: local, slurm, ray"),
        (MINIMAL, ["split.validation=0.7", "split.test=0.5"], r"split: validation \+ test \(0.7 \+ 0.5\)"),
        (MINIMAL, ["tokenizer.vocab_size=12"], r"tokenizer\.vocab_size \(12\) must be at least 300"),
        (MINIMAL, ["workers=many"], r"where\.workers \('many'\) must be a whole number"),
        (MINIMAL, ["sources.a.keep=yes"], "sources.a: keep: a number is expected, not true"),
        (MINIMAL, ["where.workers=no"], "where: workers: a number is expected, not true or false .no."),
        (MINIMAL, ["nonsense"], "not of the form section.key=value"),
        (MINIMAL, ["output.x=1"], "output is not a section"),
        (MINIMAL, ["version=3"], "config version 3 is newer"),
        ("output: out", [], "sources is missing"),
        ("output: out\nsources: {}", [], r"sources \(\{\}\) must not be empty"),
        ("output: out\nsources: {a: {files: []}}", [], r"sources\.a\.files \(\[\]\) must not be empty"),
        ("- a list", [], "a mapping of sections"),
        ("a: [", [], "not valid YAML"),
        ("", [], "output is missing"),
        ("a: " + "[" * 3000, [], "not valid YAML: nested more than 50 levels"),
        ("output: \0x", [], "not valid YAML: unacceptable character"),
        (
            "output: a\nsources: {}\noutput: b",
            [],
            "line 3: not valid YAML: the key output stands here a second",
        ),
        ("run: {name: x}\ntrain: {steps: 3}", [], "the config of a run, not one for .*: it has run, train"),
    ],
)
def test_errors_are_one_line_and_name_the_key(
    tmp_path: Path, text: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        _load(tmp_path, text, *overrides)
    assert "\n" not in str(raised.value)


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: no such config"):
        load_config(tmp_path / "none.yaml")
