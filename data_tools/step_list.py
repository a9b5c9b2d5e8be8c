"""The list of steps in a config: one mapping of a step's name to its settings for each, in order."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, ValidationError

from data_tools.sections import Section
from data_tools.steps import STEPS
from megatrain.settings import complaint, first_of


def _parse(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError('must be a list of steps, each like "clean: {}"')
    return tuple(_one(item) for item in value)


def _one(item: Any) -> Section:
    if isinstance(item, Section):
        return item
    if isinstance(item, str):
        item = {item: {}}
    if not isinstance(item, dict) or len(item) != 1:
        raise ValueError(f'{item!r} is not a step: write its name and its settings, like "clean: {{}}"')
    ((name, settings),) = item.items()
    if name not in STEPS:
        near = get_close_matches(str(name), STEPS, n=1)
        raise ValueError(
            f"no step is called {name}"
            + (f"; did you mean {near[0]}?" if near else f"; known: {', '.join(STEPS)}")
        )
    try:
        return STEPS[name].model_validate(settings or {})
    except ValidationError as error:
        first = first_of(error)
        key = ".".join(map(str, (name, *first["loc"])))
        if first["type"] == "extra_forbidden":
            near = get_close_matches(str(first["loc"][-1]), STEPS[name].model_fields, n=1)
            raise ValueError(f"unknown key {key}" + (f"; did you mean {near[0]}?" if near else "")) from None
        raise ValueError(complaint(first, key)) from None


def name_of(section: Section) -> str:
    """The name by which a config calls a step."""
    return next(name for name, kind in STEPS.items() if type(section) is kind)


def _told(steps: Sequence[Section]) -> list[dict[str, Any]]:
    return [{name_of(step): step.model_dump(mode="json")} for step in steps]


Steps = Annotated[tuple[Any, ...], BeforeValidator(_parse), PlainSerializer(_told)]
