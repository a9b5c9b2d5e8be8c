"""What may go: never the newest, and nothing that a rule keeps."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from megatrain.checkpoint.manifest import MANIFEST, Manifest, write_manifest
from megatrain.checkpoint.place import LocalPlace, OpenFile
from megatrain.checkpoint.read import newest_first
from megatrain.checkpoint.retention import Inventory, Retention, remove_checkpoint, superfluous_folders
from megatrain.state import RunState, checkpoint_name

LOSSES = st.dictionaries(st.integers(0, 60), st.none() | st.floats(0, 9), min_size=1, max_size=20)


def test_each_rule_keeps_its_own() -> None:
    losses: dict[int, float | None] = {10: 3.0, 20: 1.0, 30: None, 40: 2.0, 50: 5.0}
    assert Retention(1).superfluous(losses) == [10, 20, 30, 40]
    assert Retention(2).superfluous(losses) == [10, 20, 30]
    assert Retention(1, keep_every=20).superfluous(losses) == [10, 30]
    assert Retention(1, keep_best=2).superfluous(losses) == [10, 30]
    assert Retention(1, keep_best=1).superfluous({10: 1.0, 20: 1.0, 30: None}) == [10], "of equals the newer"
    assert Retention(9).superfluous(losses) == []


@given(LOSSES, st.integers(1, 5), st.none() | st.integers(1, 7), st.integers(0, 4))
def test_laws(losses: dict[int, float | None], keep: int, every: int | None, best: int) -> None:
    gone = set(Retention(keep, every, best).superfluous(losses))
    kept = set(losses) - gone
    assert gone <= set(losses) and max(losses) in kept
    assert set(sorted(losses)[-keep:]) <= kept
    scores = sorted(loss for loss in losses.values() if loss is not None)
    for step in gone:
        assert every is None or step % every
        loss = losses[step]
        assert loss is None or not best or loss >= scores[:best][-1]
    assert len(kept) <= keep + best + sum(every is not None and step % every == 0 for step in losses)


def test_a_loss_over_nothing_is_not_the_best(tmp_path: Path) -> None:
    """Older versions stored 0 for an evaluation in which no token counted."""
    place = LocalPlace(tmp_path)
    for step, loss in ((10, 2.0), (20, 0.0), (30, None), (40, None)):
        commit(place, step, loss)
    assert superfluous_folders(place, Retention(1, keep_best=1)) == ["step-00000020", "step-00000030"]


def commit(place: LocalPlace, step: int, validation: float | None = None) -> None:
    state = RunState(seed=1, data_fingerprint="d", step=step)
    manifest = Manifest(state, {}, "t", {}, {}, None, validation, "now", (), {})
    write_manifest(place, checkpoint_name(step), manifest)


def test_folders(tmp_path: Path) -> None:
    """Unfinished ones go when something newer is committed; what is being written stays, strangers too."""
    place = LocalPlace(tmp_path)
    assert superfluous_folders(LocalPlace(tmp_path / "absent"), Retention(1)) == []
    (tmp_path / "step-00000005").mkdir()
    assert superfluous_folders(place, Retention(1)) == [], "nothing is committed yet"
    for step, loss in ((10, 2.0), (20, 1.0), (30, 3.0)):
        commit(place, step, loss)
    for name in ("step-00000025", "step-00000040", "notes", "step-backup"):
        (tmp_path / name).mkdir()
    names = ["step-00000005", "step-00000010", "step-00000025"]
    assert superfluous_folders(place, Retention(1, keep_best=1)) == names
    for name in names:
        remove_checkpoint(place, name)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "notes",
        "step-00000020",
        "step-00000030",
        "step-00000040",
        "step-backup",
    ]
    # A damaged manifest has no validation loss, and goes by its age.
    (tmp_path / "step-00000020" / MANIFEST).write_text("{")
    assert superfluous_folders(place, Retention(1, keep_best=1)) == ["step-00000020"]


def test_what_was_passed_over_does_not_push_out_what_is_new(tmp_path: Path) -> None:
    """A run went back from step 30, say because 30 is damaged, and has just committed 20."""
    place = LocalPlace(tmp_path)
    for step in (10, 20, 30):
        commit(place, step)
    assert superfluous_folders(place, Retention(1), "step-00000020") == ["step-00000010"]
    assert superfluous_folders(place, Retention(1), "step-00000030") == ["step-00000010", "step-00000020"]


def test_what_is_damaged_takes_nobodys_place(tmp_path: Path) -> None:
    """It stays until as many newer ones are whole as are kept."""
    place = LocalPlace(tmp_path)
    damaged = {checkpoint_name(20)}
    for step in (10, 20, 30):
        commit(place, step)
    assert superfluous_folders(place, Retention(2), damaged=damaged) == []
    commit(place, 40)
    assert superfluous_folders(place, Retention(2), damaged=damaged) == [
        "step-00000010",
        "step-00000020",
    ]


class Counted(LocalPlace):
    """Counts what it is asked, as object storage would be."""

    requests = 0

    def exists(self, name: str) -> bool:
        self.requests += 1
        return super().exists(name)

    def open(self, name: str) -> OpenFile:
        self.requests += 1
        return super().open(name)


def test_a_save_costs_the_same_however_many_are_kept(tmp_path: Path) -> None:
    """Each manifest is looked at once. What somebody else removed takes nobody's place."""
    place = Counted(tmp_path)
    known, rules = Inventory(place), Retention(2, keep_every=10, keep_best=1)
    for step in range(10, 310, 10):
        commit(place, step, 1 + 1 / step)
    assert superfluous_folders(place, rules, checkpoint_name(300), inventory=known) == []
    assert place.requests == 60
    commit(place, 311, 9.0)
    known.forget(checkpoint_name(311))
    place.requests = 0
    assert superfluous_folders(place, rules, checkpoint_name(311), inventory=known) == []
    assert place.requests == 2, "the new one is there, and read"
    commit(place, 320, 9.0)
    commit(place, 333, 9.0)
    place.requests = 0
    assert superfluous_folders(place, rules, checkpoint_name(333), inventory=known) == [checkpoint_name(311)]
    assert place.requests == 7
    (tmp_path / checkpoint_name(320) / MANIFEST).unlink()
    gone = superfluous_folders(place, rules, checkpoint_name(333), inventory=known)
    assert gone == [checkpoint_name(320)], "never committed, as it seems; 311 takes its place"
    assert next(newest_first(place)) == checkpoint_name(333)
    place.requests = 0
    next(newest_first(place))
    assert place.requests == 1
