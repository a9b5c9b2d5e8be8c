"""Finds the lines of a text that are kept or removed as one: preformatted blocks, rows of tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Kind = Literal["line", "rows", "preformatted"]

_FENCE = re.compile(r"\s*(`{3,}|~{3,})([^`]*)$")
_FENCES = re.compile(r"^\s*(`{3,})", re.MULTILINE)
_INDENTED = re.compile(r"(?: {4}|\t)\s*(?!\s|[•●◆■※·*+-]\s|\d{1,9}[.)]\s)\S")
_MARK = "```"


class Unit(NamedTuple):
    """Lines that are kept or removed together: one line of prose, the rows of a table or of a list of
    definitions (lines that hold a tab), or a preformatted block."""

    kind: Kind
    lines: Sequence[str]


def fenced(text: str) -> str:
    """Return a preformatted text between two fences, as in CommonMark; longer ones where it holds fences."""
    longest = max((len(mark) for mark in _FENCES.findall(text)), default=2)
    mark = "`" * (longest + 1) if longest > 2 else _MARK
    return f"{mark}\n{text}\n{mark}"


def units(lines: Sequence[str], *, indented: bool = True, rows: bool = True) -> list[Unit]:
    """Return the lines of a text as units, in order.

    Preformatted is what stands between fences, and by `indented` also at least two lines in a row that begin
    with four spaces or a tab and with no bullet or number. A fence that is never closed is a line.
    """
    found, at = list[Unit](), 0
    while at < len(lines):
        kind, end = _unit_at(lines, at, indented, rows)
        found.append(Unit(kind, lines[at:end]))
        at = end
    return found


def may_have_fences(text: str) -> bool:
    """Whether a text may have a block between fences; quickly."""
    return "```" in text or "~~~" in text


def joined(kept: Iterable[tuple[bool, Unit]]) -> str:
    """Return the text of the units that are kept, without those marked False; where one goes, one of the
    empty lines around it goes too."""
    lines, removed = list[str](), False
    for keep, unit in kept:
        if not keep:
            removed = True
            continue
        blank = unit.kind == "line" and not unit.lines[0].strip()
        if blank and (not lines or (removed and not lines[-1].strip())):
            continue
        removed = removed and blank
        lines += unit.lines
    while lines and not lines[-1].strip():
        lines.pop()
    return "\n".join(lines)


def _unit_at(lines: Sequence[str], at: int, indented: bool, rows: bool) -> tuple[Kind, int]:
    line = lines[at]
    if (fence := _FENCE.match(line)) and (end := _closed(lines, at, fence[1])):
        return "preformatted", end
    if indented and _INDENTED.match(line) and (end := _indented_until(lines, at)) > at + 1:
        return "preformatted", end
    end = at + 1
    if rows and "\t" in line.strip():
        while end < len(lines) and "\t" in lines[end].strip():
            end += 1
    return ("rows" if end > at + 1 else "line"), end


def _closed(lines: Sequence[str], at: int, mark: str) -> int:
    """The line after the fence that closes the one at `at`; 0 where none does."""
    for end in range(at + 1, len(lines)):
        stripped = lines[end].strip()
        if stripped.startswith(mark) and not stripped.strip(mark[0]):
            return end + 1
    return 0


def _indented_until(lines: Sequence[str], at: int) -> int:
    """The line after the last indented one; empty lines among them belong to the block."""
    end = at
    for number in range(at, len(lines)):
        if _INDENTED.match(lines[number]):
            end = number + 1
        elif lines[number].strip():
            break
    return end
