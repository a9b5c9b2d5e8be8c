"""A long text in blocks of bounded size, cut where tokenizers cut."""

import re
from collections.abc import Iterator

BLOCK_CHARACTERS = 1 << 19
# A line's end, or a space after a word: no piece of a usual vocabulary holds either in its middle.
_CUT = re.compile(r"(?<=[^\n])\n|(?<=[^ ▁]) ")


def text_blocks(text: str, size: int = BLOCK_CHARACTERS) -> Iterator[str]:
    """The text in order, in blocks of `size` to twice as many characters; the last one may be shorter.

    A block ends before a newline or before a space that follows a word; where there is neither in `size`
    characters, anywhere.
    """
    start = 0
    while len(text) - start > 2 * size:
        found = _CUT.search(text, start + size, start + 2 * size)
        end = found.start() if found else start + size
        yield text[start:end]
        start = end
    yield text[start:]
