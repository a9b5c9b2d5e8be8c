"""A save on one rank: what is copied when, what is committed, what a failure leaves."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from megatrain import faults
from megatrain.checkpoint.boxes import Box
from megatrain.checkpoint.commit import Facts, Identity
from megatrain.checkpoint.fragments import Held
from megatrain.checkpoint.manifest import MANIFEST, SEAL_BYTES, sealed_text
from megatrain.checkpoint.place import LocalPlace
from megatrain.checkpoint.read import Checkpoint, newest_whole
from megatrain.checkpoint.retention import Retention
from megatrain.checkpoint.store import Saved, Store, load
from megatrain.checkpoint.tier import MAIN, Tier
from megatrain.errors import FailedWork, UserError
from megatrain.parallel.context import ParallelContext
from megatrain.state import RunState

IDENTITY = Identity({"dim": 4}, "tokenizer", {"dtype": "fp32"}, {"tensor": 1})


class GatedPlace(LocalPlace):
    """Writes wait for the gate; it stands open at first."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gate = threading.Event()
        self.gate.set()

    def write(self, name: str, chunks: Iterable[memoryview]) -> None:
        assert self.gate.wait(60)
        super().write(name, chunks)


def values() -> list[Held]:
    """A matrix in two boxes, a vector, and a replica that another rank writes."""
    matrix, vector = torch.arange(12.0).view(3, 4), torch.ones(5)
    held = [
        Held("weights/m", (3, 4), Box((0, 0), (1, 4)), matrix[:1], True),
        Held("weights/m", (3, 4), Box((1, 0), (2, 4)), matrix[1:], True),
        Held("exp_avg/v", (5,), Box((0,), (5,)), vector, True),
        Held("weights/other", (5,), Box((0,), (5,)), vector, False),
    ]
    return held


def facts(step: int, attempt: int = 1) -> Facts:
    state = RunState(seed=1, data_fingerprint="d", step=step, attempt=attempt)
    return Facts(state, IDENTITY, loss=2.5, validation_loss=float("nan"))


def make(place: LocalPlace, **settings: Any) -> Store:
    return Store([Tier(MAIN, place, Retention(2))], ParallelContext.single(), **settings)


def only(saved: list[Saved]) -> Saved:
    (one,) = saved
    return one


@pytest.mark.parametrize("background", [True, False])
def test_the_values_are_those_of_the_moment(tmp_path: Path, background: bool) -> None:
    """Training goes on, and changes the tensors, while the file is written."""
    place = GatedPlace(tmp_path)
    store, held = make(place, background=background), values()
    store.reserve(held)
    if background:
        place.gate.clear()
    assert store.save(held, facts(3)) >= 0
    wanted = torch.arange(12.0).view(3, 4)
    for h in held:
        h.data.fill_(-7)
    if background:
        assert store.busy and store.finished() == []
        assert not list(tmp_path.glob(f"*/{MANIFEST}"))
        place.gate.set()
    saved = only(store.wait())
    assert saved.error is None and saved.step == 3 and not store.busy
    assert store.finished() == store.wait() == [], "it is told once"
    found = store.find()
    assert found.name == "step-00000003" and found.damaged == ()
    checkpoint = store.open(found, held)
    assert torch.equal(checkpoint.tensor("weights/m"), wanted)
    assert set(checkpoint.manifest.tensors) == {"weights/m", "exp_avg/v"}
    assert checkpoint.manifest.bytes == saved.bytes
    assert (checkpoint.manifest.loss, checkpoint.manifest.validation_loss) == (2.5, None)
    load(checkpoint, held[:3])
    assert torch.equal(held[1].data, wanted[1:])


def test_a_second_save_waits_for_the_first(tmp_path: Path) -> None:
    place = GatedPlace(tmp_path)
    store, held = make(place), values()
    place.gate.clear()
    store.save(held, facts(1))
    threading.Timer(0.2, place.gate.set).start()
    assert store.save(held, facts(2)) >= 0.1, "what training waits for is counted as the stall"
    assert [saved.step for saved in store.wait()] == [1, 2]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000001", "step-00000002"]


def test_only_what_fits_is_found_and_the_rest_can_be_forgotten(tmp_path: Path) -> None:
    """A damaged one that does not fit is nobody's concern; one that nobody can read stays."""
    store = Store([Tier(MAIN, LocalPlace(tmp_path), Retention(9))], ParallelContext.single())
    for step in (1, 2, 3, 4):
        store.save(values(), facts(step))
        store.wait()
    (file,) = (tmp_path / "step-00000003").glob("*.safetensors")
    file.write_bytes(b"")
    found = store.find(lambda state: state.step <= 2)
    assert found.name == "step-00000002" and found.damaged == ()
    assert store.find(lambda state: state.step < 1).name is None
    found = store.find(lambda state: state.step != 4)
    assert found.name == "step-00000002" and len(found.damaged) == 1
    (tmp_path / "step-00000001" / MANIFEST).write_text("{")
    store.forget(lambda state: state.step == 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_a_damaged_manifest_falls_back_whatever_it_claims(tmp_path: Path) -> None:
    """Another number, a newer version, no version, another step's folder: the older checkpoint is used."""
    store = make(LocalPlace(tmp_path))
    for step in (1, 2):
        store.save(values(), facts(step))
        store.wait()
    path = tmp_path / "step-00000002" / MANIFEST
    sound = path.read_bytes()
    assert store.find().name == "step-00000002"
    for old, new in (
        (b'"consumed_samples":0', b'"consumed_samples":8'),
        (b'"version":3', b'"version":7'),
        (b'"version":3', b'"version":2'),
        (b'"version":3', b'"versio~":3'),
        (b"own_xxh3", b"own_xxh2"),
        (b"weights/m", b"weights/o"),
        (sound, (tmp_path / "step-00000001" / MANIFEST).read_bytes()),
    ):
        path.write_bytes(sound.replace(old, new, 1))
        assert path.read_bytes() != sound
        found = store.find()
        assert found.name == "step-00000001" and "not a sound manifest" in only(found.damaged)
        newest, damaged = newest_whole(LocalPlace(tmp_path))
        assert newest is not None and newest.name == "step-00000001" and len(damaged) == 1
    path.write_bytes(sealed_text(sound[:-SEAL_BYTES].replace(b'"version":3', b'"version":7', 1)))
    with pytest.raises(UserError, match="version 7 is newer"):
        store.find()


def test_a_damaged_newer_one_does_not_push_out_what_is_new(tmp_path: Path) -> None:
    store = Store([Tier(MAIN, LocalPlace(tmp_path), Retention(1))], ParallelContext.single())
    store.save(values(), facts(5))
    store.wait()
    (file,) = (tmp_path / "step-00000005").glob("*.safetensors")
    file.write_bytes(b"")
    for step in (2, 3):
        store.save(values(), facts(step, attempt=2))
        store.wait()
    assert store.find().name == "step-00000003"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000005"]


class StuckPlace(LocalPlace):
    def remove(self, name: str) -> None:
        raise PermissionError(13, "Permission denied")


def test_what_cannot_be_forgotten_is_an_error(tmp_path: Path) -> None:
    store = make(StuckPlace(tmp_path))
    store.save(values(), facts(1))
    store.wait()
    with pytest.raises(FailedWork, match=r"rank 0: a checkpoint cannot be removed: .*Permission denied"):
        store.forget(lambda state: False)


def test_the_same_step_again_replaces_what_is_damaged(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path)
    first = make(place)
    first.save(values(), facts(4))
    first.wait()
    (old,) = (tmp_path / "step-00000004").glob("*.safetensors")
    old.write_bytes(old.read_bytes()[:-1])
    with pytest.raises(FailedWork, match="no checkpoint is whole"):
        make(place).find()
    second = make(place)
    second.save(values(), facts(4, attempt=2))
    assert only(second.wait()).error is None
    assert second.find().name == "step-00000004" and not old.exists()


class FullPlace(LocalPlace):
    """No room for files of a name, until there is."""

    full = ".safetensors"

    def write(self, name: str, chunks: Iterable[memoryview]) -> None:
        def some() -> Iterable[memoryview]:
            yield next(iter(chunks))
            raise OSError(errno.ENOSPC, "No space left on device")

        super().write(name, some() if self.full and name.endswith(self.full) else chunks)


@pytest.mark.parametrize("what", [".safetensors", MANIFEST])
def test_a_full_disk_fails_the_save_and_leaves_no_rubbish(tmp_path: Path, what: str) -> None:
    place = FullPlace(tmp_path)
    place.full = ""
    store, held = make(place), values()
    store.save(held, facts(1))
    store.wait()
    place.full = what
    store.save(held, facts(2))
    saved = only(store.wait())
    assert saved.error is not None and "No space left on device" in saved.error and what in saved.error
    assert store.find().name == "step-00000001"
    if what != MANIFEST:
        assert list((tmp_path / "step-00000002").iterdir()) == []
    place.full = ""
    store.save(held, facts(2))
    assert only(store.wait()).error is None and store.find().name == "step-00000002"


def test_who_lost_the_lease_commits_nothing(tmp_path: Path) -> None:
    store = make(LocalPlace(tmp_path), lost=lambda: "another attempt holds the run")
    store.save(values(), facts(1))
    assert only(store.wait()).error == "another attempt holds the run"
    assert not list(tmp_path.rglob(MANIFEST)) and store.find().name is None


def test_a_mistake_of_ours_is_a_failed_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the end of the run, nor a thread that dies in silence."""
    monkeypatch.setenv("MEGATRAIN_FAULT", "point=checkpoint.write,do=crash")
    faults._hits.clear()
    store = make(LocalPlace(tmp_path))
    store.save(values(), facts(1))
    assert "InjectedFault: asked for at checkpoint.write" in str(only(store.wait()).error)
    monkeypatch.setenv("MEGATRAIN_FAULT", "point=checkpoint.commit,do=crash")
    faults._hits.clear()
    store.save(values(), facts(2))
    assert "InjectedFault: asked for at checkpoint.commit" in str(only(store.wait()).error)
    store.save(values(), facts(3))
    assert only(store.wait()).error is None


class LostPlace(LocalPlace):
    """Object storage that cannot be reached."""

    def folders(self) -> list[str]:
        raise OSError("endpoint refused")


def test_a_place_out_of_reach(tmp_path: Path) -> None:
    with pytest.raises(FailedWork, match=r"cannot be looked for in .*: endpoint refused"):
        make(LostPlace(tmp_path)).find()


CRAFTED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "header longer than the file": lambda whole: (1 << 40).to_bytes(8, "little") + whole[8:],
    "no JSON": lambda whole: whole[:8] + b"x" * (len(whole) - 8),
    "a list": lambda whole: (2).to_bytes(8, "little") + b"[]" + whole[10:],
    "another dtype": lambda whole: whole.replace(b'"F32"', b'"I64"'),
    "beyond the end": lambda whole: whole.replace(b'"data_offsets":[0,', b'"data_offsets":[9,'),
    "other shape": lambda whole: whole.replace(b'"shape":[5]', b'"shape":[4]'),
    "other names": lambda whole: whole.replace(b"exp_avg/v", b"exp_avg/w"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_files_are_refused(tmp_path: Path, name: str) -> None:
    """Even where the manifest's hash was made to fit: nothing is read past a file, or taken for another
    tensor."""
    store, held = make(LocalPlace(tmp_path)), values()
    store.save(held, facts(1))
    store.wait()
    (path,) = tmp_path.glob("*/*.safetensors")
    path.write_bytes(CRAFTED[name](path.read_bytes()))
    with pytest.raises(FailedWork) as caught:
        load(Checkpoint(tmp_path / "step-00000001"), held[:3])
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
