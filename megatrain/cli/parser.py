"""How commands are added to the command line: their help with an example, the arguments that many have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn, TypeAlias

from megatrain.settings.paths import path

Run = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a call in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


Verbs: TypeAlias = "argparse._SubParsersAction[Parser]"


def command(verbs: Verbs, name: str, run: Run, help_: str, example: str) -> Parser:
    """Add a command. `help_` is a sentence, `example` a call without `megatrain`."""
    parser = _with_example(verbs, name, help_, example)
    parser.set_defaults(run=run)
    return parser


def group(verbs: Verbs, name: str, help_: str, example: str) -> Verbs:
    """Add a command that has commands of its own."""
    return _with_example(verbs, name, help_, example).add_subparsers(
        dest="kind", required=True, metavar="COMMAND"
    )


def _with_example(verbs: Verbs, name: str, help_: str, example: str) -> Parser:
    return verbs.add_parser(
        name,
        help=help_,
        description=help_,
        epilog=f"example: megatrain {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def config_arguments(parser: Parser) -> None:
    """Add a config and overrides of it."""
    parser.add_argument("config", type=path, metavar="CONFIG", help="a YAML file")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="section.key=value",
        help="settings that go before the file's",
    )


def count(text: str) -> int:
    """A whole number that is not negative, as an argument's type."""
    return _at_least(text, 0)


def size(text: str) -> int:
    """A whole number above 0, as an argument's type."""
    return _at_least(text, 1)


def _at_least(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)
