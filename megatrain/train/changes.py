"""Changes of settings between the start that saved a checkpoint and the one that resumes it, from
RUN/settings.json: the line on what alters the run's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from megatrain.config import Config, ScheduleConfig, load_config
from megatrain.config.effects import effect_of, settings_of
from megatrain.errors import UserError
from megatrain.observe.lines import is_count
from megatrain.records import check_seal, parse_record, read_file, write_sealed
from megatrain.state import RunFolder
from megatrain.train.schedule import learning_rate

VERSION = 1
LOOKED_AT = 256
"""Steps at which two schedules are compared."""
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Starts:
    """Settings of the starts of a run, of those that changed them."""

    settings: tuple[tuple[int, Settings], ...] = ()
    """(attempt, settings) in the order of attempts; a start with the settings of the one before is not among
    them."""
    unknown: str | None = None
    """Why they are not known."""

    def of(self, attempt: int) -> Settings | None:
        """Return the settings of an attempt; None where they are not known."""
        before = [settings for number, settings in self.settings if number <= attempt]
        return before[-1] if before else None


@dataclass(frozen=True)
class Changes:
    """What a resume does otherwise than the start that saved its checkpoint."""

    text: str
    numbers: dict[str, list[Any]]
    """Key → [before, now] of what alters numbers."""
    summation: dict[str, list[Any]]
    """The same of what alters the order of floating-point sums alone."""


def settings_now(config: Config, ranks: int, versions: Mapping[str, str]) -> dict[str, Any]:
    """Return all that decides the numbers of this start. `versions`: of what computes, by its name."""
    return {**settings_of(config), "ranks": ranks, **versions}


def read_starts(folder: RunFolder) -> Starts:
    """Return what is known of earlier starts; of an older version its config.yaml. Raises nothing."""
    path = folder.settings
    try:
        record = parse_record(read_file(path))
        check_seal(record, required=True)
        if record["version"] != VERSION:
            return Starts(unknown=f"{path}: version {record['version']} is not {VERSION}")
        starts = [(one["attempt"], dict(one["settings"])) for one in record["starts"]]
        if not all(is_count(attempt) for attempt, _ in starts):
            raise ValueError("an attempt is no number")
        return Starts(tuple(starts))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, LookupError, TypeError) as error:
        return Starts(unknown=f"{path}: damaged ({error})")
    try:
        return Starts(((0, settings_of(load_config(folder.config))),))
    except (UserError, OSError) as error:
        return Starts(unknown=str(error) if folder.config.exists() else f"{folder.root} has no settings.json")


def write_start(folder: RunFolder, known: Starts, attempt: int, settings: Settings) -> None:
    """Record the settings of this start where they are not those of the one before. Raises OSError."""
    starts = [(number, one) for number, one in known.settings if 0 < number < attempt]
    if starts and starts[-1][1] == settings and known.unknown is None:
        return
    starts.append((attempt, settings))
    write_sealed(
        folder.settings,
        {"version": VERSION, "starts": [{"attempt": number, "settings": one} for number, one in starts]},
    )


def changes(before: Settings, now: Settings, step: int, data: str | None = None) -> Changes | None:
    """Return what changed; None where nothing did.

    `step`: where the run resumes; `data`: what the fingerprint says of changed data. A key that `before` does
    not know is compared with its default.
    """
    effects, defaults = effect_of(), settings_of(Config())
    old = {**defaults, **before}
    differ = {
        key: [old.get(key, "unknown"), value]
        for key, value in now.items()
        if key in old and _differ(old[key], value)
    }
    summation = {key: pair for key, pair in differ.items() if effects.get(key, "summation") == "summation"}
    numbers = {key: pair for key, pair in differ.items() if key not in summation}
    parts = _schedule_part(old, now, step, numbers)
    parts += [_shown(key, pair) for key, pair in numbers.items() if not _of_schedule(key)]
    if data is not None:
        parts.append(f"data: {data}")
    if summation:
        shown = ", ".join(_shown(key, pair) for key, pair in summation.items())
        parts.append(f"floating-point summation order only: {shown}")
    return Changes("; ".join(parts), numbers, summation) if parts else None


def _schedule_part(old: Settings, now: Settings, step: int, numbers: dict[str, list[Any]]) -> list[str]:
    """Return the part of the line on the learning rate; removes from `numbers` what alters none."""
    mine = {key: pair for key, pair in numbers.items() if _of_schedule(key)}
    if not mine:
        return []
    shown = ", ".join(_shown(key, pair) for key, pair in mine.items())
    try:
        rates = [
            _rates(settings, step, max(old["train.steps"], now["train.steps"])) for settings in (old, now)
        ]
    except (ValidationError, LookupError, TypeError, ValueError):
        return [shown]
    if rates[0] == rates[1]:  # of a constant schedule, say
        for key in mine:
            del numbers[key]
        return []
    first = [of_step[0] for of_step in rates]
    if first[0] == first[1]:
        return [f"learning rate {first[0]:.1e} as before, but not later ({shown})"]
    return [f"learning rate {first[0]:.1e} → {first[1]:.1e} ({shown})"]


def _rates(settings: Settings, step: int, end: int) -> list[float]:
    """Return the learning rate of the next step and of some later ones, the last among them."""
    schedule = ScheduleConfig(
        **{key.partition(".")[2]: value for key, value in settings.items() if key.startswith("schedule.")}
    )
    stride = max(1, (end - step) // LOOKED_AT)
    steps = [*range(step, max(step + 1, end), stride), max(step, end - 1)]
    return [learning_rate(one, schedule, settings["train.steps"]) for one in steps]


def _of_schedule(key: str) -> bool:
    return key.startswith("schedule.") or key == "train.steps"


def _differ(old: Any, now: Any) -> bool:
    return bool(old != now) or isinstance(old, bool) != isinstance(now, bool)


def _shown(key: str, pair: list[Any]) -> str:
    before, now = (_value(one) for one in pair)
    return f"{key} {before} → {now}"


def _value(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.6g}"
        case dict() | list():
            text = str(value).replace("'", "")
            return text if len(text) <= 120 else f"{text[:117]}..."
        case _:
            return str(value)
