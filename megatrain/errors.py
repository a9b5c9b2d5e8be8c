"""The errors that a user sees as one line, and the exit code each of them ends a command with."""


class UserError(Exception):
    """A wrong call, config or input that can be seen before work begins: exit 2, one line, no traceback.

    The message says what is wrong, where, and how to mend it.
    """

    exit_code = 2


class FailedWork(Exception):
    """Work that cannot go on through nobody's fault in the call (a damaged shard, a lost checkpoint): exit
    1, one line."""

    exit_code = 1


def require(condition: object, message: str) -> None:
    """Raise UserError(message) unless the condition holds."""
    if not condition:
        raise UserError(message)


def install(extra: str) -> str:
    """The mend for a package that is absent, which one of setup.py's extras brings."""
    return f"pip install -c constraints.txt -e '.[{extra}]' in megatrain's folder"
