"""Reading files of JSON lines that another process wrote, or a kill tore: one pass, nothing believed."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatrain.records import parse_record

MAX_LINE_BYTES = 1 << 24
BLOCK_BYTES = 1 << 20
MAX_INT = 1 << 53  # what a JSON number holds exactly everywhere
MAX_JUMP = 1000  # attempts in a row that ended before they logged anything
MAX_UNIX_S = 1e11  # the year 5138
STEP_FIRST = re.compile(rb'\{"step": (\d{1,15})[,}]')
logger = logging.getLogger(__name__)
Line = dict[str, Any]


@dataclass
class Odd:
    """Lines of one file that were skipped because they are no records."""

    path: Path
    count: int = 0
    first: str = ""
    """Number of the first such line, and what is wrong with it."""

    def add(self, number: int, why: str) -> None:
        """number: of the line; 0 where it is not known."""
        self.count += 1
        if self.count == 1:
            self.first = f"line {number}: {why}" if number else why

    def warn(self) -> None:
        """Log one line, if there were any."""
        if self.count:
            lines = "1 line was" if self.count == 1 else f"{self.count:,} lines were"
            logger.warning("%s: %s skipped that no run logs (%s)", self.path, lines, self.first)


def read_numbered(path: Path, odd: Odd | None = None) -> Iterator[tuple[int, Line]]:
    """Yield (number of the line, its JSON object); an absent file has none.

    Skips what is no JSON object and reports it to `odd`. A last line without its end is one that is being
    written, or that a kill tore: it is skipped without a word. Raises OSError, also for a folder or a FIFO.
    """
    for first, block in blocks(path):
        for number, text in lines_of(first, block):
            line = parse(number, text, odd)
            if line is not None:
                yield number, line


def parse(number: int, text: bytes, odd: Odd | None) -> Line | None:
    """Return the JSON object of a line; None for what is none, of which `odd` hears."""
    try:
        if len(text) >= MAX_LINE_BYTES:
            raise ValueError(f"longer than {MAX_LINE_BYTES:,} bytes")
        return parse_record(text)
    except json.JSONDecodeError as error:
        if odd is not None and text.endswith(b"\n") and text.strip():
            odd.add(number, f"{error.msg} at column {error.colno}")
    except ValueError as error:
        if odd is not None:
            odd.add(number, str(error)[:200])
    return None


def blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the first line, whole lines), a megabyte at a time; the last may lack its end, and of
    a line that is too long only the beginning is there. An absent file has none. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        number = 1
        while block := file.read(BLOCK_BYTES):
            if not block.endswith(b"\n"):
                block += file.readline(MAX_LINE_BYTES)
            while not block.endswith(b"\n") and (rest := file.readline(MAX_LINE_BYTES)):
                if rest.endswith(b"\n"):
                    block += b"\n"
            yield number, block
            number += block.count(b"\n")


def lines_of(first: int, block: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line with its end)."""
    *whole, torn = block.split(b"\n")
    for number, line in enumerate(whole, first):
        yield number, line + b"\n"
    if torn:
        yield first + len(whole), torn


def read_lines(path: Path, odd: Odd | None = None) -> Iterator[Line]:
    """Yield the JSON objects of a file of lines, as `read_numbered` does."""
    return (line for _, line in read_numbered(path, odd))


def is_number(value: object) -> bool:
    """Whether it is a finite number; true and false are none."""
    return (type(value) is float and math.isfinite(value)) or (type(value) is int and abs(value) <= MAX_INT)


def is_count(value: object) -> bool:
    """Whether it is a whole number from 0 on."""
    return type(value) is int and 0 <= value <= MAX_INT


def is_moment(value: object) -> bool:
    """Whether it can be a Unix time in seconds."""
    return is_number(value) and 0 <= value <= MAX_UNIX_S  # type: ignore[operator]


class Newest:
    """Which lines count: those of the highest attempt so far.

    An attempt that was stopped while another one took the run over may append lines when it is continued;
    what it computed then is nobody's. A number beyond MAX_JUMP above the highest is damage: it would make all
    later lines stale.
    """

    def __init__(self) -> None:
        self.attempt = 0
        self.stale = 0
        """Lines that did not count."""

    @property
    def limit(self) -> int:
        """The highest number that the next line can have."""
        return self.attempt + MAX_JUMP if self.attempt else MAX_INT

    def counts(self, line: Line) -> bool:
        """To be called in the order of the file. A line that names no attempt counts."""
        attempt = line.get("attempt")
        if not is_count(attempt):
            return attempt is None
        if attempt < self.attempt or attempt > self.limit:  # type: ignore[operator]
            self.stale += 1
            return False
        self.attempt = attempt  # type: ignore[assignment]
        return True


def newest_only(lines: Iterable[Line]) -> Iterator[Line]:
    """Yield the lines that count, see `Newest`."""
    newest = Newest()
    return (line for line in lines if newest.counts(line))


def last_of_each(lines: Iterable[Line]) -> list[Line]:
    """Return the lines that no later one undid: a line undoes those before it from its step on."""
    kept: list[Line] = []
    for line in lines:
        while kept and kept[-1]["step"] >= line["step"]:
            kept.pop()
        kept.append(line)
    return kept


def tail(path: Path, most_bytes: int = 1 << 16) -> list[Line]:
    """Return the records in the last `most_bytes` of a file; none of what cannot be read."""
    found: list[Line] = []
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                file.seek(max(0, os.fstat(descriptor).st_size - most_bytes))
                for line in file.read(most_bytes).splitlines():
                    try:
                        found.append(parse_record(line))
                    except ValueError:  # cut by the limit, or odd
                        continue
    except OSError:
        pass
    return found


class Furthest:
    """The last step that any attempt came to. Looks only at what was appended since the last look."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._step = path, 0, 0

    def step(self) -> int:
        """Return 0 where there is none, and what was known where the file cannot be read."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return self._step
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return self._step
            if status.st_size < self._offset:  # another file
                self._offset = self._step = 0
            file.seek(self._offset)
            while line := file.readline(MAX_LINE_BYTES):
                if not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES:
                    break  # being written
                self._offset += len(line)
                self._step = max(self._step, _step_of(line))
        return self._step


def _step_of(line: bytes) -> int:
    if found := STEP_FIRST.match(line):  # as megatrain writes it: no need to read the rest
        return int(found[1])
    try:
        step = parse_record(line).get("step")
    except ValueError:
        return 0
    return step if is_count(step) else 0  # type: ignore[return-value]
