"""What a long work prints: how far it is, and at its end what came of the documents."""

import io
from collections.abc import Iterator

import pytest

from data_tools import progress
from data_tools.progress import Progress, flow_lines


def test_what_came_of_documents_is_sorted_and_in_percent() -> None:
    counts = {
        "clean": 0,
        "gopher_quality.stop_words": 2,
        "kept": 7_000,
        "kept_bytes": 123,
        "length.too_short": 1_498,
        "read": 10_000,
        "read.invalid_bytes": 1_500,
    }
    assert flow_lines("web", counts) == [
        "web: 10,000 documents read, 7,000 kept (70.0%)",
        "web:        1,500 ( 15.0%) dropped: read.invalid_bytes",
        "web:        1,498 ( 15.0%) dropped: length.too_short",
        "web:            2 ( <0.1%) dropped: gopher_quality.stop_words",
    ]
    assert flow_lines("none", {}) == ["none: 0 documents read, 0 kept (0.0%)"]


def test_a_line_has_percent_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def clock() -> Iterator[float]:
        now = 0.0
        while True:
            yield now
            now += 30.0

    ticks = clock()
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(ticks))
    out = io.StringIO()
    assert list(Progress(out).track("tasks", range(4), 4)) == [0, 1, 2, 3]
    lines = out.getvalue().splitlines()
    assert lines[0] == "tasks: 1/4 (25.0%, 90 s left)"
    assert lines[3] == "tasks: 4/4 (100.0%, 0 s left)"
