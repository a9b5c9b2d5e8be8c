"""A text without some of its parts."""

from collections.abc import Iterable

from megatrain.errors import FailedWork

Span = tuple[int, int]  # First character, and the one behind the last.


def cut(text: str, spans: Iterable[Span]) -> str:
    """The text without the spans, which may overlap; of the blanks around a gap one kind stays.

    "a, [b] c" gives "a, c", and a paragraph goes with the blank line behind it.
    """
    kept = ""
    begin = 0
    for start, end in sorted(spans):
        if start > begin:
            kept = _join(kept, text[begin:start])
        begin = max(begin, end)
    return _join(kept, text[begin:]) if begin else text


def _join(before: str, after: str) -> str:
    if not before or before.endswith("\n\n"):
        return before + after.lstrip("\n")
    if before[-1].isspace() and after[:1] == before[-1]:
        return before + after[1:]
    return before + after


def check_keys(as_found: bool) -> None:
    """Raise FailedWork unless the text that is cut is the text that was searched."""
    if not as_found:
        raise FailedWork(
            "a document's text is not the one that its repeated parts were found in; "
            "remove the working folder and run again"
        )
