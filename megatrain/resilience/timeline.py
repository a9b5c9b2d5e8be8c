"""Which samples a run leaves out, and which checkpoints a rollback has made worthless: RUN/skipped.json.

A rollback writes its record before anything else changes. From then on no start runs into the bad samples
again, and a checkpoint that was made after the step that the run went back to, without leaving them out, is
of a time line that was given up, wherever it lies and whether or not somebody has removed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from megatrain.data.skipped import covers, merged, sample
from megatrain.errors import FailedWork, UserError
from megatrain.records import OWN_HASH, check_seal, parse_record, read_file, write_sealed
from megatrain.state import MOST, RunFolder, RunState

VERSION = 2  # with a hash of its own; 1, without one, is also what a person writes


@dataclass(frozen=True)
class LeftOut:
    """Samples [first, last) that the run leaves out: since a rollback, or because somebody wrote it down."""

    first: int
    last: int
    from_step: int | None = None
    """The step after which the run went back."""
    to_step: int | None = None
    """That of the checkpoint it went back to; None: there was no rollback."""
    cause: str = ""

    def __post_init__(self) -> None:
        numbers = (self.first, self.last, *(n for n in (self.from_step, self.to_step) if n is not None))
        if (
            not all(type(number) is int and 0 <= number < MOST for number in numbers)
            or self.first >= self.last
        ):
            raise ValueError(f"not a range of samples: {self.first}, {self.last}")
        if type(self.cause) is not str:
            raise ValueError("cause is no text")


Records = tuple[LeftOut, ...]


def read_records(folder: RunFolder) -> Records:
    """In the order they were made; none where there is no file.

    Raises UserError for a newer version, FailedWork for a file that is damaged or something else.
    """
    try:
        tree = parse_record(read_file(folder.left_out))
        version = tree.get("version")
        if type(version) is not int or version < 1 or tree.keys() - {OWN_HASH} != {"version", "left_out"}:
            raise ValueError(f"version {str(version)[:40]!r} with {', '.join(sorted(tree))}"[:200])
        check_seal(tree, required=version > 1)
        if version > VERSION:
            raise UserError(f"{folder.left_out}: version {version} is newer than this megatrain; upgrade")
        return tuple(LeftOut(**one) for one in tree["left_out"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError) as error:
        raise FailedWork(
            f"{folder.left_out}: cannot be read ({error}); without it the run would take samples that it "
            'left out: mend it (changed by hand: set "version" to 1 and remove own_xxh3)'
        ) from None


def write_records(folder: RunFolder, records: Records) -> None:
    """When it returns, they outlive a crash. Raises FailedWork."""
    try:
        tree = {"version": VERSION, "left_out": [asdict(one) for one in records]}
        write_sealed(folder.left_out, tree)
    except OSError as error:
        raise FailedWork(f"{folder.left_out}: cannot be written: {error.strerror or error}") from None


def belongs(state: RunState, records: Sequence[LeftOut]) -> bool:
    """Whether a checkpoint of this state is one to go on from: each rollback to an earlier step left a mark
    in it."""
    return all(
        one.to_step is None or state.step <= one.to_step or covers(state.skipped, one.first, one.last)
        for one in records
    )


def may_be_abandoned(step: int, records: Sequence[LeftOut]) -> bool:
    """Whether a checkpoint of this step can be of a time line that was given up: it was made between the step
    that the run went back to and the step from which it went."""
    return any(
        one.to_step is not None and one.to_step < step and (one.from_step is None or step <= one.from_step)
        for one in records
    )


def leaving_out(state: RunState, records: Sequence[LeftOut]) -> RunState:
    """The state, with all that is still to come of the records left out; what it has behind it stays."""
    here = sample(state.consumed_samples, state.skipped)
    ahead = [(max(one.first, here), one.last) for one in records if one.last > here]
    return replace(state, skipped=merged([*state.skipped, *ahead]))


def fruitless(records: Sequence[LeftOut], to_step: int) -> int:
    """Rollbacks since the run last had something newer to go back to than the checkpoint of `to_step`."""
    return sum(one.to_step is not None and one.to_step >= to_step for one in records)


def bad_samples(state: RunState, global_batch: int) -> tuple[int, int]:
    """The samples [first, last) of the steps that were skipped in a row until now."""
    assert state.skipped_in_row
    first = state.consumed_samples - state.skipped_in_row * global_batch
    return sample(first, state.skipped), sample(state.consumed_samples - 1, state.skipped) + 1
