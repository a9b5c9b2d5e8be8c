"""What an import reads: which file is which split and source, in which format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from data_tools.convert.batches import Batch
from data_tools.convert.mds import MdsInput
from data_tools.convert.megatron import MegatronInput
from data_tools.convert.parquet import ParquetInput
from megatrain.errors import UserError, require
from megatrain.settings import expanded

Format = Literal["megatron", "mds", "parquet"]
SPLITS = ("train", "validation", "test")


class Input(Protocol):
    """Records in one of the formats."""

    @property
    def files(self) -> tuple[Path, ...]: ...
    def batches(self) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Place:
    """What an input becomes: a split, and a source unless its records name theirs."""

    split: str
    source: str | None
    path: Path

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read SPLIT/SOURCE=PATH or SPLIT=PATH. Raises UserError where it is neither."""
        name, equals, path = text.partition("=")
        split, slash, source = name.partition("/")
        require(
            equals and path and split in SPLITS and (source or not slash),
            f"{text!r} is not of the form SPLIT/SOURCE=PATH, or SPLIT=PATH where the records name their "
            f"source; SPLIT is one of {', '.join(SPLITS)}",
        )
        try:
            return cls(split, source or None, Path(expanded(path)))
        except ValueError as error:
            raise UserError(str(error)) from None

    def __str__(self) -> str:
        return f"{self.split}/{self.source}" if self.source else self.split


def open_input(kind: Format, path: Path, *, column: str, bytes_dtype: str | None) -> Input:
    """Look at an input's header. Raises UserError where it is not of the format, or cut short."""
    match kind:
        case "megatron":
            return MegatronInput(path)
        case "mds":
            return MdsInput(path, column, bytes_dtype)
        case "parquet":
            return ParquetInput(path, column)
