"""The files that a config names beside the raw ones: what they hold decides the output, as the config
does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_tools.config import DataConfig
from data_tools.document import StepSection
from data_tools.inputs import Inputs
from data_tools.readers.source import require_kind
from data_tools.steps.bad_words import BadWords
from data_tools.steps.decontaminate import Decontaminate
from data_tools.steps.extract import Extract
from data_tools.steps.language import Language
from data_tools.steps.perplexity import Perplexity
from data_tools.tokenizer.existing import read_tokenizer
from data_tools.tokenizer.section import check_weights
from megatrain.durable import hash_file
from megatrain.errors import require

_PAGES = ("html", "warc")


def require_steps(config: DataConfig, inputs: Inputs) -> dict[str, str]:
    """Make every step once, before work begins. Gives the hashes of the files that they read, by path.

    Raises UserError where a step lacks a file or a package, or nothing makes text of web pages.
    """
    hashes: dict[str, str] = {}
    for name, source in config.sources.items():
        steps = config.steps_of(name)
        for section in steps:
            section.build()
            hashes |= {str(path): hash_file(path) for path in files_of(section)}
        formats = {require_kind(file.url, source, name).format for file in inputs.files[name]}
        require(
            not formats & {*_PAGES} or any(isinstance(section, Extract) for section in steps),
            f"sources.{name}: {' and '.join(sorted(formats & {*_PAGES}))} files hold pages, no step makes "
            'text of them; begin its steps with "extract: {}"',
        )
    return hashes


def build_steps(config: DataConfig) -> None:
    """Make every step once. Raises UserError where one lacks a file or a package."""
    for name in config.sources:
        for section in config.steps_of(name):
            section.build()


def evaluation_sets(config: DataConfig) -> dict[str, dict[str, int]]:
    """Of the sets that documents are compared with: how many texts, and how many too short to be sought."""
    found: dict[str, dict[str, int]] = {}
    lists = {name: config.steps_of(name) for name in config.sources}
    for section in {step for steps in lists.values() for step in steps if isinstance(step, Decontaminate)}:
        sets = section.load()
        found |= {
            name: {"texts": count, "too_short": sets.too_short[name]} for name, count in sets.texts.items()
        }
    return dict(sorted(found.items()))


def require_tokenizer(config: DataConfig) -> dict[str, str]:
    """Read an existing tokenizer, where the config names one. Gives the hashes of its files, by path.

    Raises UserError where it cannot be used, or `tokenizer.weights` are not those of the sources.
    """
    section = config.tokenizer
    check_weights(section, list(config.sources))
    if section.model is None:
        return {}
    path = Path(section.model)
    read_tokenizer(path, eos_token=section.eos_token, bos_token=section.bos_token)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {str(file): hash_file(file) for file in files if file.is_file()}


def files_of(section: StepSection) -> Iterator[Path]:
    """The files that a step reads."""
    match section:
        case BadWords():
            yield from map(Path, filter(None, (section.file, *section.by_language.values())))
        case Language() if section.model is not None:
            yield Path(section.model)
        case Perplexity():
            yield Path(section.model)
        case Decontaminate():
            for paths in section.evaluation_sets().values():
                yield from paths
        case _:
            pass
