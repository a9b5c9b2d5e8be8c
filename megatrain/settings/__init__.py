"""Settings as people write them: YAML, overrides, paths, and messages for wrong values."""

from megatrain.settings.complaints import complaint, first_of
from megatrain.settings.paths import PathText, expanded
from megatrain.settings.reading import parse_settings, read_settings, require_version

__all__ = [
    "PathText",
    "complaint",
    "expanded",
    "first_of",
    "parse_settings",
    "read_settings",
    "require_version",
]
