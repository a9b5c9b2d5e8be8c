"""How far a long work is: one line rewritten on a terminal, plain lines now and then elsewhere."""

import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TextIO, TypeVar

_Item = TypeVar("_Item")
_NO_REASONS = ("read", "kept")
_TERMINAL_EVERY_S = 0.2
_PLAIN_EVERY_S = 10.0


def flow_lines(source: str, counts: Mapping[str, int]) -> list[str]:
    """What came of a source's documents: how many were kept, and why the others were dropped, most first."""
    read, kept = counts.get("read", 0), counts.get("kept", 0)
    drops = [
        (reason, count)
        for reason, count in counts.items()
        # "kept_bytes" is no reason, "read.invalid_bytes" is one.
        if count and reason not in _NO_REASONS and ("." in reason or not reason.endswith("_bytes"))
    ]
    lines = [f"{source}: {read:,} documents read, {kept:,} kept ({_share(kept, read)})"]
    for reason, count in sorted(drops, key=lambda drop: (-drop[1], drop[0])):
        lines.append(f"{source}: {count:>12,} ({_share(count, read):>6}) dropped: {reason}")
    return lines


def _share(count: int, total: int) -> str:
    """A share in percent; one that is not nothing does not look like nothing."""
    share = count / total if total else 0.0
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def _left(passed_s: float, count: int, total: int) -> str:
    """How long the rest takes at the pace so far."""
    left_s = passed_s / count * (total - count)
    return f"{left_s:.0f} s" if left_s < 120 else f"{left_s / 60:.0f} min"


def look_at(folder: Path) -> str:
    """Where a finished dataset is looked at."""
    return f"see `megatrain data stats {shlex.quote(str(folder))}` for lengths, languages and drops"


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
                left = _left(now - began, count, total)
                line = f"{label}: {count:,}/{total:,} ({_share(count, total)}, {left} left)"
                self._print(f"\r\x1b[K{line}" if self._on_terminal else f"{line}\n")
        self.note(f"{label}: {count:,} in {time.monotonic() - began:.1f} s")
