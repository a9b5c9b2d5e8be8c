"""How far a long work is: one line rewritten on a terminal, plain lines now and then elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TextIO, TypeVar

_Item = TypeVar("_Item")
_TERMINAL_EVERY_S = 0.2
_PLAIN_EVERY_S = 10.0


class Progress:
    """Writes to standard error unless told otherwise."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = sys.stderr if out is None else out
        self._on_terminal = self._out.isatty()

    def note(self, text: str) -> None:
        """A line that stays."""
        self._print(("\r\x1b[K" if self._on_terminal else "") + text + "\n")

    def _print(self, text: str) -> None:
        with suppress(OSError, ValueError):  # nobody reads it any more, or its disk is full: the work is not
            self._out.write(text)
            self._out.flush()

    def track(self, label: str, items: Iterable[_Item], total: int) -> Iterator[_Item]:
        """The items, with their count shown as they pass."""
        began = shown = time.monotonic()
        every = _TERMINAL_EVERY_S if self._on_terminal else _PLAIN_EVERY_S
        count = 0
        for count, item in enumerate(items, 1):
            yield item
            if (now := time.monotonic()) - shown >= every:
                shown = now
                line = f"{label}: {count:,}/{total:,}"
                self._print(f"\r\x1b[K{line}" if self._on_terminal else f"{line}\n")
        self.note(f"{label}: {count:,} in {time.monotonic() - began:.1f} s")
