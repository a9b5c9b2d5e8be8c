"""Writes texts and tags as lines: paragraphs, list items, rows of cells, preformatted blocks."""

from __future__ import annotations

import re
from typing import NamedTuple

from data_tools.fences import fenced
from data_tools.pages.markup import count_visible
from data_tools.pages.roles import Kind, Tag, gap_of

# Those of HTML; a no-break space and the wide space of Chinese are characters of the text.
_SPACES = re.compile(r"[ \t\n\f\r]+")
_HTML_SPACES = " \t\n\f\r"
_BLANK_LINES = re.compile(r"\A(?:[ \t\f\r]*\n)+|\s+\Z")
_LISTS = frozenset(("ul", "ol", "menu", "dir"))
_PREFORMATTED = frozenset(("pre", "listing"))


class _Block(NamedTuple):
    """A line, or the lines of a preformatted block."""

    text: str
    gap: int
    """Line ends before it."""
    marks: int
    """Characters in it that are not the page's: bullets, numbers, fences."""


class Place(NamedTuple):
    """A point of the text that is being written."""

    blocks: int
    cells: int
    texts: int


class BlockWriter:
    """Collects the text of a page. A line is finished when the next block's text comes, not at an element's
    end, so that a cell that holds one paragraph still shares the line of its row."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._cells: list[str] = []
        """The finished cells of the open line."""
        self._line: list[str] = []
        """The texts of its last cell."""
        self._before = 0
        """Line ends before the open line."""
        self._gap = 0
        """Line ends after it; 0 while it is being written."""
        self._breaks = 0
        self._prefix = ""
        """What the next line begins with: a bullet, or the indent of a list."""
        self._line_prefix: str | None = None
        self._lists: list[int | None] = []
        """The open lists: the next number, or None for bullets."""
        self._preformatted = 0
        self._fresh = False
        """Whether a cell or a list item has begun and is empty: its first block shares its line."""
        self._row: int | None = None
        """The number of blocks when the open cell began; None: no cell precedes in this row."""

    def text(self, text: str, *, blank: bool) -> None:
        """Add a text between two tags; `blank`: of spaces alone."""
        if self._preformatted:
            self._line.append(text)
        elif not blank:
            if self._gap:
                self._flush()
            if self._line_prefix is None:
                self._line_prefix = self._prefix
                self._prefix = "  " * (len(self._lists) + 1) if self._lists else ""
            self._line.append(text)
            self._breaks, self._fresh = 0, False
        elif self._line and not self._gap:
            self._line.append(text)

    def gap(self, gap: int) -> None:
        """Put at least `gap` line ends before the next text."""
        if self._preformatted:
            if gap and self._line and not self._line[-1].endswith("\n"):
                self._line.append("\n")
        elif gap > self._gap and not self._fresh:
            self._gap = gap

    def start(self, tag: Tag) -> None:
        """Begin an element."""
        if self._preformatted:
            self._preformatted += tag.kind == Kind.PREFORMATTED
            self._line.append("\n") if tag.kind == Kind.BREAK else self.gap(tag.gap)
            return
        match tag.kind:
            case Kind.BREAK:
                self._breaks += 1
                self.gap(min(self._breaks, 2))
            case Kind.ROW:
                self._fresh = False
                self.gap(1)
                self._row = None
            case Kind.CELL | Kind.DEFINITION if self._row is not None and self._row == len(self._blocks):
                self._cells.append(_collapsed(self._line))
                self._line.clear()
                self._gap, self._fresh = 0, True
                self._row = None if tag.kind == Kind.DEFINITION else self._row
            case Kind.CELL | Kind.TERM:
                self._begin_line()
                self._row = len(self._blocks)
            case Kind.PREFORMATTED:
                self._flush()
                self._before = max(self._before, tag.gap)
                self._preformatted += 1
            case Kind.LIST:
                self._fresh = False
                self.gap(1 if self._lists else 2)
                self._lists.append(None if tag.name != "ol" else 1 if tag.number is None else tag.number)
            case Kind.ITEM:
                self._begin_line()
                self._prefix = self._bullet(tag.number)
            case _:
                self.gap(tag.gap)

    def end(self, name: str) -> None:
        """End an element."""
        if name in _PREFORMATTED and self._preformatted:
            self._preformatted -= 1
            if not self._preformatted:
                self._write_preformatted()
        elif name in _LISTS and self._lists and not self._preformatted:
            self._lists.pop()
            self._prefix = "  " * (len(self._lists) + 1) if self._lists else ""
            self.gap(1 if self._lists else 2)
        elif name not in ("td", "th", "dt"):
            if name == "dl":
                self._row = None
            if name in ("li", "tr"):
                self._gap = min(self._gap, 1)
            self.gap(gap_of(name))

    def place(self, *, block: bool) -> Place:
        """Return where the next text will be, for `since` and `drop`."""
        if (block or self._gap) and not self._preformatted:
            self._flush()
        return Place(len(self._blocks), len(self._cells), len(self._line))

    def since(self, place: Place) -> str:
        """Return the text of the open line since a place; "" where another line is open."""
        same = place.blocks == len(self._blocks) and place.cells == len(self._cells)
        return "".join(self._line[place.texts :]) if same else ""

    def drop(self, place: Place) -> bool:
        """Remove the text since a place. Return False where that is not possible: a line has been finished
        that began before it."""
        if len(self._blocks) > place.blocks:
            if place.cells or place.texts:
                return False
            self._before = max(self._before, self._blocks[place.blocks].gap)
            del self._blocks[place.blocks :]
        elif len(self._cells) < place.cells:
            return False
        del self._cells[place.cells :]
        del self._line[place.texts if len(self._cells) == place.cells else 0 :]
        return True

    def finish(self) -> tuple[str, int]:
        """Return the text, and how many of its characters are not the page's."""
        if self._preformatted:
            self._write_preformatted()
        self._flush()
        text = "".join("\n" * min(block.gap, 2) + block.text for block in self._blocks)
        return text.lstrip("\n"), sum(block.marks for block in self._blocks)

    def _begin_line(self) -> None:
        self._flush()
        self._before = max(self._before, 1)
        self._fresh = True

    def _bullet(self, number: int | None) -> str:
        indent = "  " * max(len(self._lists), 1)
        following = self._lists[-1] if self._lists else None
        if following is None:
            return f"{indent}• "
        following = following if number is None else number
        self._lists[-1] = following + 1
        return f"{indent}{following}. "

    def _flush(self) -> None:
        """Finish the open line."""
        line = ""
        if self._line or self._cells:
            line = "\t".join([*self._cells, _collapsed(self._line)]).strip("\t")
        if line:
            prefix = self._line_prefix or ""
            self._append(prefix + line, count_visible(prefix))
        self._before = max(self._before, self._gap)
        self._cells.clear()
        self._line.clear()
        self._line_prefix = None
        self._gap = 0

    def _write_preformatted(self) -> None:
        text = _BLANK_LINES.sub("", "".join(self._line).replace("\r", ""))
        self._line.clear()
        self._preformatted = self._gap = 0
        if "\n" in text:
            block = fenced(text)
            self._append(block, count_visible(block) - count_visible(text))
        elif text:
            self._append(self._prefix + text.strip(_HTML_SPACES), count_visible(self._prefix))
            self._prefix = "  " * (len(self._lists) + 1) if self._lists else ""
        self.gap(2)

    def _append(self, text: str, marks: int) -> None:
        self._blocks.append(_Block(text, max(self._before, 1), marks))
        self._before, self._fresh = 0, False


def _collapsed(texts: list[str]) -> str:
    return _SPACES.sub(" ", "".join(texts)).strip(_HTML_SPACES)
