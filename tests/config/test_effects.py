"""Every key of the config is known to alter a run's numbers, the order of their summation, or nothing."""

from __future__ import annotations

from collections import Counter

from megatrain.config import Config
from megatrain.config.effects import EFFECTS, leaves, settings_of
from megatrain.config.reference import keys


def test_every_key_has_one_effect() -> None:
    """A new key must be added to megatrain/config/effects.py: a resume reports changes of those that alter
    numbers."""
    named = Counter(key for group in EFFECTS.values() for key in group.split())
    assert set(named) == {key for key, _ in leaves(Config())} and set(named.values()) == {1}
    inner = {key for key in keys() if key not in named}
    assert all(any(key.startswith(f"{known}.") for known in named) for key in inner), "the page's keys, too"


def test_the_settings_of_a_run_are_plain_data() -> None:
    settings = settings_of(Config())
    assert settings["schedule.learning_rate"] == 3e-4 and settings["parallel.tensor"] == 1
    assert settings["data.sources"] == {} and settings["faults"] == []
    assert not any(key.startswith(("observe.", "cluster.", "checkpoint.")) for key in settings)
