"""Where a run's records go: the interface of a sink, line files, the terminal."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, TextIO

from megatrain.observe.append import Appender, Fence, unfenced
from megatrain.observe.metrics import Record, as_json

Results = Mapping[str, Mapping[str, float | None]]
"""Numbers of an evaluation: source (or "all") → name → number; None is an average over nothing."""


class Sink(Protocol):
    """A place that records go to. It may raise OSError; the run goes on."""

    def write_step(self, record: Record) -> None: ...

    def write_event(self, record: Record) -> None: ...

    def write_evaluation(self, record: Record, results: Results) -> None:
        """`record` is the event's, without the results."""

    def complaint(self) -> str | None:
        """What went wrong since it was last asked, told once."""

    def close(self) -> None: ...


class LineFile:
    """A file of JSON lines, see `Appender`."""

    def __init__(self, path: Path, fence: Fence = unfenced) -> None:
        """Raises OSError."""
        self._lines = Appender(path, fence)

    def append(self, record: Record) -> None:
        """Raises OSError when the line could not be written now: it is kept, and written before the next one.
        Raises FailedWork when the run is another attempt's."""
        line = json.dumps(as_json(record), ensure_ascii=False, allow_nan=False)
        self._lines.append(line.encode("utf-8", "backslashreplace") + b"\n")

    def complaint(self) -> str | None:
        """Return how many lines were late or lost, once."""
        return self._lines.complaint()

    def close(self) -> None:
        self._lines.close()


class JsonLines:
    """metrics.jsonl has the steps, events.jsonl the events and evaluations."""

    def __init__(self, metrics: Path, events: Path, fence: Fence = unfenced) -> None:
        self._metrics = LineFile(metrics, fence)
        self._events = LineFile(events, fence)

    def write_step(self, record: Record) -> None:
        self._metrics.append(record)

    def write_event(self, record: Record) -> None:
        self._events.append(record)

    def write_evaluation(self, record: Record, results: Results) -> None:
        self._events.append({**record, "results": results})

    def complaint(self) -> str | None:
        return "; ".join(filter(None, (self._metrics.complaint(), self._events.complaint()))) or None

    def close(self) -> None:
        self._metrics.close()
        self._events.close()


class Terminal:
    """One aligned line a step; events and evaluations stand out where the stream is a terminal."""

    def __init__(self, stream: TextIO, *, total_steps: int, print_every: int) -> None:
        self._stream = stream
        self._total_steps = total_steps
        self._print_every = print_every
        self._step_s: float | None = None

    def write_step(self, record: Record) -> None:
        seconds = record["step_s"] + record["ckpt_stall_s"]
        # The first step compiles and warms up: it is forgotten soon.
        self._step_s = seconds if self._step_s is None else self._step_s + 0.2 * (seconds - self._step_s)
        if (
            record["step"] % self._print_every == 0
            or record["step"] == self._total_steps
            or record["skipped"]
        ):
            eta_s = self._step_s * max(0, self._total_steps - record["step"])
            self._print(step_line(record, self._total_steps, eta_s))

    def write_event(self, record: Record) -> None:
        # `numbers` and `summation` of a change are in its cause.
        known = ("event", "step", "cause", "time", "unix", "numbers", "summation")
        details = ", ".join(f"{name} {_told(value)}" for name, value in record.items() if name not in known)
        cause = f": {record['cause']}" if record["cause"] else ""
        text = f"{record['event']} at step {record['step']}{cause}" + (f" ({details})" if details else "")
        self._print(self._styled("1;31" if record["event"] in ("fault", "fail") else "1", text))

    def write_evaluation(self, record: Record, results: Results) -> None:
        width = max((len(name) for name in results), default=0)
        for name, numbers in results.items():
            columns = " | ".join(f"{_words(key)} {_short(value)}" for key, value in numbers.items())
            if numbers.get("of_windows") == 0:
                columns = "no window: not evaluated"
            self._print(
                self._styled("36", f"evaluation at step {record['step']} | {name:<{width}} | {columns}")
            )

    def complaint(self) -> str | None:
        return None

    def close(self) -> None:
        self._stream.flush()

    def _styled(self, code: str, text: str) -> str:
        colour = self._stream.isatty() and "NO_COLOR" not in os.environ
        return f"\x1b[{code}m{text}\x1b[0m" if colour else text

    def _print(self, text: str) -> None:
        try:
            self._stream.write(text + "\n")
        except UnicodeEncodeError:  # A terminal or pipe that is not UTF-8.
            self._stream.write(text.encode("ascii", "replace").decode() + "\n")
        self._stream.flush()


def step_line(record: Record, total_steps: int, eta_s: float) -> str:
    """`step  120/5000 | loss 3.2145 | ppl 24.9 | grad 0.53 | lr 3.00e-04 | ...`, aligned within a run."""
    width = len(str(total_steps))
    loss = record["loss"]
    perplexity = f"{math.exp(loss):8.4g}" if loss < 20 else "       -"
    speed = record["tokens_per_s"]
    columns = [
        f"step {record['step']:>{width}}/{total_steps}",
        f"loss {loss:7.4f}",
        f"ppl {perplexity}",
        f"grad {record['grad_norm']:7.3f}",
        f"lr {record['lr']:.2e}",
        f"{'-':>7} tok/s"
        if speed is None
        else f"{speed / 1000:7.1f}k tok/s"
        if speed >= 10_000
        else f"{speed:7.0f} tok/s",
        "mfu     -" if record["mfu"] is None else f"mfu {100 * record['mfu']:5.1f}%",
        f"wait {record['data_wait_s']:5.2f}s",
        f"eta {duration(eta_s):>7}",
    ]
    if record["ckpt_stall_s"] > 0:
        columns.append(f"save {record['ckpt_stall_s']:.2f}s")
    if record["skipped"]:
        columns.append("SKIPPED")
    return " | ".join(columns)


def duration(seconds: float) -> str:
    """`42s`, `3m07s`, `5h12m`, `2d03h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def _told(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return " ".join(f"{name} {_told(inner)}" for name, inner in value.items())
    return f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)


def _words(key: str) -> str:
    return key.replace("_", " ")


def _short(value: float | None) -> str:
    if value is None:  # an average over nothing
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
