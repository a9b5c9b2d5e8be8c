"""`megatrain COMMAND`: parse, call one function, turn its errors into one line and an exit code."""

from megatrain.cli.main import main

__all__ = ["main"]
