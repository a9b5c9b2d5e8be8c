"""What programs print for people: a terminal, pipe or file that fails loses lines, never the work."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO)
"""After these nothing can ever be printed there: nobody reads the pipe, the terminal was closed."""
FAILURES = (OSError, ValueError)  # the latter of a stream that was closed


def say(text: str, to: TextIO | None = None) -> None:
    """Print a line on standard error, or another stream, if that is possible."""
    with suppress(*FAILURES):
        print(text, file=sys.stderr if to is None else to, flush=True)


class Guarded:
    """A text stream that loses what it cannot write; all else is the stream's own."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name, self._said = stream, name, False

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except FAILURES as error:
            self._lose(error)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except FAILURES as error:
            self._lose(error)

    def _lose(self, error: OSError | ValueError) -> None:
        if isinstance(error, OSError) and error.errno in GONE:
            discard(self._stream)
        if not self._said and self._name != "standard error":
            self._said = True
            say(f"megatrain: {self._name}: {reason(error)}: what is printed is lost, the work continues")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Noted(Guarded):
    """A text stream that remembers by what a write to it failed; the error is raised all the same."""

    error: OSError | ValueError | None = None

    def _lose(self, error: OSError | ValueError) -> None:
        self.error = self.error or error
        raise error


@contextmanager
def noted_output() -> Iterator[Noted]:
    """Note whether standard output, whose lines are the result of the program, has taken them."""
    before = sys.stdout
    with open(os.devnull, "w") as nowhere:
        noted = Noted(before or nowhere, "standard output")
        sys.stdout = cast(TextIO, noted)
        try:
            yield noted
        finally:
            sys.stdout = before
            if failure(before) is not None:
                discard(before)


@contextmanager
def guarded(*, out: bool) -> Iterator[None]:
    """Guard standard error, and with `out` also standard output, whose lines are then not the result of the
    program; at the end nothing is left that the interpreter could fail to write."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:  # for streams that were closed when the program began: None
        sys.stderr = cast(TextIO, Guarded(sys.stderr or nowhere, "standard error"))
        if out:
            # Not that of `noted_output`: what is lost here is no result.
            sys.stdout = cast(TextIO, Guarded(_own(sys.stdout) or nowhere, "standard output"))
        try:
            yield
        finally:
            _end(before, out=out)


def _end(before: tuple[TextIO, TextIO], *, out: bool) -> None:
    sys.stdout, sys.stderr = before
    for stream in before if out else before[1:]:
        if failure(_own(stream)) is not None:
            discard(_own(stream))


def _own(stream: TextIO) -> TextIO:
    """The stream without what `guarded` and `noted_output` have put around it."""
    return _own(stream._stream) if isinstance(stream, Guarded) else stream


def failure(stream: TextIO | None) -> OSError | ValueError | None:
    """Return why a stream cannot take what was printed; None if it has all of it."""
    try:
        if stream is not None:
            stream.flush()
    except FAILURES as error:
        return error
    return None


def discard(stream: TextIO | None) -> None:
    """Send what a stream holds, and whatever is printed there later, to nowhere."""
    with suppress(*FAILURES, AttributeError):
        assert stream is not None
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


def require_utf8(environment: Mapping[str, str]) -> None:
    """Start this program again in Python's UTF-8 mode where the locale's encoding is another one.

    Names of files in configs and datasets, and prompts, are UTF-8; the terminal keeps its own encoding.
    """
    if sys.flags.utf8_mode or sys.getfilesystemencoding() == "utf-8":
        return
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    changed = {
        "PYTHONIOENCODING": f"{encoding}:backslashreplace",
        **environment,
        "PYTHONUTF8": "1",
    }
    words = [os.fsencode(sys.executable), b"-X", b"utf8", *map(_as_utf8, sys.orig_argv[1:])]
    os.execve(sys.executable, words, changed)


def _as_utf8(argument: str) -> bytes:
    """Return an argument's bytes as they came if they are UTF-8, else what the locale reads them as."""
    raw = os.fsencode(argument)
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return argument.encode("utf-8", "surrogateescape")
    return raw


def open_standard_files() -> None:
    """Put /dev/null in the place of standard files that are closed: else the next file that is opened gets
    the number, and what is printed goes into it."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def reason(error: Exception) -> str:
    """Return the words of the system for an error."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
