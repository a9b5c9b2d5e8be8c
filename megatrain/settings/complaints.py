"""Errors of pydantic in the words of people: one line that names the key and the value as typed."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails


def first_of(error: ValidationError) -> ErrorDetails:
    """What is told of many errors: a misspelt key before what is missing for it."""
    return min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")


def complaint(error: ErrorDetails, key: str) -> str:
    """What is wrong with the value of a key, in the words of people."""
    if error["type"] == "missing":
        return f"{key} is missing; it must be given"
    if error["type"] == "value_error":
        return f"{key}: {error['msg'].removeprefix('Value error, ')}"
    return f"{key} ({_shown(error['input'])}) {_must(error)}"


def _shown(value: Any) -> str:
    """Return a value as YAML writes it, or the beginning of a long one."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _must(error: ErrorDetails) -> str:
    limit = error.get("ctx", {})
    match error["type"]:
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            return "must be a whole number"
        case "float_type" | "float_parsing":
            return "must be a number"
        case "finite_number":
            return "must be a finite number"
        case "bool_type" | "bool_parsing":
            return "must be true or false"
        case "string_type":
            return "must be text"
        case "literal_error":
            return f"must be {limit['expected']}"
        case "greater_than":
            return f"must be above {limit['gt']:g}"
        case "greater_than_equal":
            return f"must be at least {limit['ge']:g}"
        case "less_than":
            return f"must be below {limit['lt']:g}"
        case "less_than_equal":
            return f"must be at most {limit['le']:g}"
        case "model_type" | "dict_type" | "mapping_type" | "model_attributes_type":
            return "must be a section of keys"
        case "string_too_short" if limit["min_length"] == 1:
            return "must not be empty"
        case "too_short" if limit["min_length"] == 1:
            return "must not be empty"
        case "tuple_type" | "list_type":
            return "must be a list, [like, this]"
        case _:
            return error["msg"].replace("Input should", "must").replace("String should", "must")
