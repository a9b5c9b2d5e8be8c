"""Path texts of configs and arguments: `~`, `~user`, `$NAME` and `${NAME}` are expanded, everywhere alike."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([^}]*)\})")


def expanded(text: str) -> str:
    """Return a path or URL with its leading `~` or `~user` and its `$NAME` and `${NAME}` replaced.

    Expanding the result again changes nothing, so that a stored config reads the same. A `~` elsewhere and a
    `$` that begins no name stay. Raises ValueError for a variable that is not set or empty, for an unknown
    user, for NUL, and where a variable would put a password into a URL, which would be stored.
    """
    if "\x00" in text:
        raise ValueError("a path cannot contain NUL")
    result = _VARIABLE.sub(_value, text)
    if result != text and _VARIABLE.search(result):
        raise ValueError(f"{text}: the value of a variable in it contains a $ itself; give the path directly")
    if "://" in result:
        if result != text and urlsplit(result).password is not None:
            raise ValueError(
                f"{text}: a password in a URL would be stored with the config; use fsspec's own settings"
            )
        return result
    if result.startswith("~"):
        home = os.path.expanduser(result)
        if home.startswith("~"):
            raise ValueError(
                f"{text}: there is no home of {result.partition('/')[0]}; a name that begins with ~ is "
                "written ./~name"
            )
        return home
    return result


def _value(found: re.Match[str]) -> str:
    name = found[1] if found[1] is not None else found[2]
    value = os.environ.get(name, "")
    if not value:
        raise ValueError(f"{found.string}: the environment variable {name} is not set")
    return value


PathText = Annotated[str, AfterValidator(expanded)]
"""The type of every key that names a file, a folder or a URL."""


def path_text(text: str) -> str:
    """Return an argument of the command line that is a path or a URL, expanded; an argument's type."""
    try:
        return expanded(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def path(text: str) -> Path:
    """Like `path_text`, as a Path; an argument's type."""
    return Path(path_text(text))
