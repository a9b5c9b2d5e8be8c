"""The packages of the `export` extra, imported only when they are needed."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from megatrain.errors import UserError, install


def tokenizers() -> Any:
    """Raises UserError naming the extra where the package is not installed."""
    try:
        import tokenizers
    except ImportError as error:
        raise _absent(error) from None
    module: ModuleType = tokenizers
    return module


def transformers() -> Any:
    """Like `tokenizers`."""
    try:
        import transformers
    except ImportError as error:
        raise _absent(error) from None
    module: ModuleType = transformers
    return module


def _absent(error: ImportError) -> UserError:
    return UserError(f"export needs the package {error.name}: {install('export')}")
