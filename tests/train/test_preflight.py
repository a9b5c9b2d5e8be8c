"""What is wrong with a run is said before it begins: the key, the value, the mend, on one line."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from megatrain.checkpoint.belonging import require_whole
from megatrain.checkpoint.manifest import SEAL_BYTES, Manifest, read_manifest, sealed_text, write_manifest
from megatrain.checkpoint.place import LocalPlace
from megatrain.checkpoint.read import Checkpoint
from megatrain.checkpoint.storage import FileInfo
from megatrain.data.tokenizer import MODEL_FILE, Tokenizer, save_tokenizer
from megatrain.errors import FailedWork, UserError
from megatrain.parallel.collectives import alike
from megatrain.parallel.context import ParallelContext
from megatrain.state import RunFolder, RunState, checkpoint_name
from megatrain.train import preflight
from megatrain.train.passes import passes_lines
from megatrain.train.preflight import prepare_run
from tests.distributed.corpus import make_corpus, run_config

Usage = namedtuple("Usage", "total used free")


def refused(match: str, config: object, world: int = 1, kind: type[Exception] = UserError) -> None:
    with pytest.raises(kind, match=match) as caught:
        prepare_run(config, world)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def commit(folder: Path, corpus: Path, *overrides: str) -> None:
    """A checkpoint of step 3 of this run, by its manifest alone."""
    prepared = prepare_run(run_config(corpus, folder, *overrides), 1)
    state = RunState(seed=1234, data_fingerprint=prepared.fingerprint, step=3)
    i = prepared.identity
    manifest = Manifest(state, i.model, i.tokenizer, i.precision, i.layout, None, None, "now", (), {})
    write_manifest(LocalPlace(RunFolder(folder).checkpoints), checkpoint_name(3), manifest)


def test_a_sound_run_writes_nothing(corpus: Path, tmp_path: Path) -> None:
    prepared = prepare_run(run_config(corpus, tmp_path / "run", "evaluate.every=1"), 2)
    assert prepared.train.sources == ("prose", "verse") and prepared.validation is not None
    assert prepared.identity.layout == {"world": 2, "tensor": 1, "data": 2, "zero": 1}
    assert not (tmp_path / "run").exists()
    assert not prepared.warnings and sum(one.drawn for one in prepared.passes) == 50
    assert prepare_run(run_config(corpus, tmp_path / "run"), 4).fingerprint == prepared.fingerprint


def test_data_and_tokenizer(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    refused(r"data\.sources is empty", run_config(corpus, run, "data.sources=[]"))
    refused(rf"{tmp_path}/no/train: no such dataset folder", run_config(tmp_path / "no", run))
    refused(
        r"model\.vocab_size \(300\) is below the tokenizer's 320; set it to 384, a multiple of",
        run_config(corpus, run, "model.vocab_size=300"),
    )
    refused(r"smaller than one sample", run_config(corpus, run, "data.sequence_length=100000"))
    short = ("evaluate.every=4", "checkpoint.keep_best=1", "data.sequence_length=2000")
    refused(
        r"no source of the validation split has a window of data\.sequence_length \(2000\) \+ 1 tokens: "
        r"prose has [\d,]+ tokens, verse has [\d,]+ tokens; .*evaluate\.every=0",
        run_config(corpus, run, *short),
    )
    prepare_run(run_config(corpus, run, *short[2:]), 1)
    refused(
        r"parallel\.tensor \(2\) must divide the number of ranks \(3\)",
        run_config(corpus, run, "parallel.tensor=2", "model.kv_heads=2"),
        world=3,
    )
    copy = tmp_path / "copy"
    shutil.copytree(corpus, copy)
    shard = next((copy / "train").glob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-8])
    refused(rf"{shard}: shard cut short or changed", run_config(copy, run), kind=FailedWork)
    (copy / "tokenizer" / MODEL_FILE).write_bytes(b"torn")
    assert not run.exists()


def test_passes_over_the_data_are_counted_and_absurd_ones_refused(corpus: Path, tmp_path: Path) -> None:
    many = prepare_run(run_config(corpus, tmp_path, "train.steps=1000"), 1)
    assert [(one.source, one.drawn) for one in many.passes] == [("prose", 3327), ("verse", 1673)]
    assert many.warnings[0].startswith(
        "passes over the data: prose 12.0, verse 12.3: beyond 4, repeated text"
    )
    assert passes_lines(many.passes, 1000, 5)[0] == (
        "prose: 3,327 of 5,000 samples (1,000 steps x 5), 12.0 passes over 278"
    )
    for steps in ("99999999999", str(10**30)):
        refused(
            r"train\.steps \([\d,]+\) .* makes [\d,]+ passes over the 414 samples of the data, at most",
            run_config(corpus, tmp_path, f"train.steps={steps}"),
        )


def test_a_source_without_a_validation_window_is_named_before_the_run(corpus: Path, tmp_path: Path) -> None:
    config = run_config(corpus, tmp_path, "evaluate.every=4", "data.sequence_length=800")
    assert prepare_run(config, 1).warnings == (
        "validation: verse has 739 tokens, but a window takes data.sequence_length (800) + 1: it is not "
        "evaluated",
    )


def test_a_foreign_tokenizer(corpus: Path, tmp_path: Path) -> None:
    other = make_corpus(tmp_path / "other", seed=5)
    refused(
        r"tokenizer\.folder \(.*\) does not belong to the shards",
        run_config(corpus, tmp_path / "run", f"tokenizer.folder={other}"),
    )
    absent = tmp_path / "no"
    refused(
        rf"tokenizer\.folder: {absent}: no tokenizer there .*; leave it out, the shards bring their own",
        run_config(corpus, tmp_path / "run", f"tokenizer.folder={absent}"),
    )
    own = tmp_path / "own"
    save_tokenizer(own, (corpus / "tokenizer" / MODEL_FILE).read_bytes())
    prepared = prepare_run(run_config(corpus, tmp_path / "run", f"tokenizer.folder={own}"), 1)
    assert prepared.tokenizer.hash == Tokenizer.load(corpus).hash
    # Another dataset with another tokenizer, in the folder of a run that began with this one.
    commit(tmp_path / "begun", corpus)
    refused("was trained with another tokenizer", run_config(other, tmp_path / "begun"))
    mixed = run_config(corpus, tmp_path / "run", f"data.sources=[{{path: '{corpus}'}}, {{path: '{other}'}}]")
    refused("different tokenizers", mixed)


def test_a_run_folder_of_another_run(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    commit(run, corpus)
    prepare_run(run_config(corpus, run, "train.steps=99", "parallel.zero=3"), 2)  # these may change
    fewer = ("train.steps=2", "train.stop_after=null", "schedule.warmup_steps=0")
    refused(
        r"train\.steps \(2\) is below the step that .* has reached \(3\)", run_config(corpus, run, *fewer)
    )
    refused(r"is of another model: model\.dim is 16 there and 32", run_config(corpus, run, "model.dim=32"))
    refused(
        r"trained with precision\.dtype=fp32, the config says bf16; set checkpoint\.allow_precision_change",
        run_config(corpus, run, "precision.dtype=bf16"),
    )
    prepare_run(run_config(corpus, run, "precision.dtype=bf16", "checkpoint.allow_precision_change=true"), 1)
    for change in ("data.sequence_length=16", "run.seed=5", "data.document_mask=false"):
        refused(r"trained on other data .* set data\.allow_change=true", run_config(corpus, run, change))
        prepare_run(run_config(corpus, run, change, "data.allow_change=true"), 1)
    weighted = f"data.sources=[{{path: '{corpus}', name: prose, weight: 1}}]"
    refused("trained on other data", run_config(corpus, run, weighted))
    manifest = next(run.glob("checkpoints/*/MANIFEST.json"))
    newer = manifest.read_bytes()[:-SEAL_BYTES].replace(b'"version":3', b'"version":9', 1)
    manifest.write_bytes(sealed_text(newer))
    refused("version 9 is newer than this megatrain reads", run_config(corpus, run))


def test_damage_is_told_before_a_launch(corpus: Path, tmp_path: Path) -> None:
    """Also that of checkpoints: a run never begins anew where it cannot go on."""
    run = tmp_path / "run"
    commit(run, corpus)
    (manifest,) = run.glob("checkpoints/*/MANIFEST.json")
    place = LocalPlace(manifest.parent.parent)
    sound = read_manifest(place, "step-00000003")
    manifest.write_text("{")
    config = run_config(corpus, run)
    refused(r"no checkpoint is whole \(step-00000003: .*; restore one", config, kind=FailedWork)
    prepare_run(run_config(corpus, run, f"checkpoint.tiers=[{{folder: {tmp_path}/near, every: 1}}]"), 1)
    with_file = dataclasses.replace(sound, files=(FileInfo("a.safetensors", 5, "0" * 32),))
    write_manifest(place, "step-00000003", with_file)
    refused(r"no checkpoint is whole \(step-00000003: a\.safetensors", config, kind=FailedWork)
    write_manifest(place, "step-00000002", sound)
    refused(r"its folder is step-00000002", config, kind=FailedWork)
    older = dataclasses.replace(sound, state=dataclasses.replace(sound.state, step=2))
    write_manifest(place, "step-00000002", older)
    refused(r"step-00000002 is of another model", run_config(corpus, run, "model.dim=32"))
    (warning,) = [line for line in prepare_run(config, 1).warnings if "skipped" in line]
    assert warning.startswith("checkpoint skipped: step-00000003: ")


def test_weights_of_a_damaged_checkpoint_are_not_begun_with(corpus: Path, tmp_path: Path) -> None:
    commit(tmp_path / "old", corpus)
    (manifest,) = (tmp_path / "old").glob("checkpoints/*/MANIFEST.json")
    source = f"checkpoint.load_weights_from={manifest.parent}"
    prepare_run(run_config(corpus, tmp_path / "new", source), 1)
    place = LocalPlace(manifest.parent.parent)
    file = FileInfo("a.safetensors", 5, "0" * 32)
    sound = dataclasses.replace(read_manifest(place, "step-00000003"), files=(file,))
    write_manifest(place, "step-00000003", sound)
    (manifest.parent / "a.safetensors").write_bytes(b"1234")
    refused(r"damaged: a\.safetensors", run_config(corpus, tmp_path / "new", source), kind=FailedWork)
    (manifest.parent / "a.safetensors").write_bytes(b"12345")
    prepare_run(run_config(corpus, tmp_path / "new", source), 1)
    checkpoint = Checkpoint(str(manifest.parent))
    with pytest.raises(FailedWork, match=r"a\.safetensors: hash differs .*; name another"):
        require_whole(checkpoint, hashes=True)
    manifest.write_bytes(manifest.read_bytes()[1:])
    refused(r"not a sound manifest", run_config(corpus, tmp_path / "new", source), kind=FailedWork)
    manifest.unlink()
    refused(r"load_weights_from .*: no checkpoint there", run_config(corpus, tmp_path / "new", source))


def test_a_tier_may_lie_on_disks_that_this_host_has_not(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        preflight.os, "access", lambda path, mode: str(path).startswith(str(tmp_path)) or mode != os.W_OK
    )
    tier = "checkpoint.tiers=[{folder: /local-disk-of-a-node/x, every: 1}]"
    prepare_run(run_config(corpus, tmp_path / "run", tier), 1)
    (tmp_path / "file").write_text("")
    tier = f"checkpoint.tiers=[{{folder: {tmp_path}/file/x, every: 1}}]"
    refused(
        r"checkpoint\.tiers: folder \(.*/file/x\): .*/file is a file",
        run_config(corpus, tmp_path / "run", tier),
    )


def test_no_room(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = run_config(corpus, tmp_path / "run")
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 100_000))
    refused(r"run\.folder \(.*\): no room for checkpoints: .* lower checkpoint\.keep", config)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: Usage(10**9, 0, 10**9))
    prepare_run(config, 1)
    monkeypatch.setattr(preflight.os, "access", lambda path, mode: False)
    refused(r"run\.folder \(.*\): .* cannot be written", config)


def test_errors_are_alike_on_all_ranks() -> None:
    def fail(kind: type[Exception]) -> None:
        raise kind("why")

    for kind in (UserError, FailedWork):
        with pytest.raises(kind, match="why"):
            alike(lambda kind=kind: fail(kind), ParallelContext.single())
    with pytest.raises(ZeroDivisionError):
        alike(lambda: 1 / 0, ParallelContext.single())
    assert alike(lambda: 5, ParallelContext.single()) == 5


def test_prepared_is_frozen(corpus: Path, tmp_path: Path) -> None:
    prepared = prepare_run(run_config(corpus, tmp_path / "run"), 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        prepared.fingerprint = "x"  # type: ignore[misc]


def test_files_of_the_run_that_are_no_files(corpus: Path, tmp_path: Path) -> None:
    """Whatever another process put in their place: nothing hangs, and no rank starts."""
    for name, put in (("metrics.jsonl", Path.mkdir), ("events.jsonl", os.mkfifo), ("logs", Path.touch)):
        run = tmp_path / name / "run"
        run.mkdir(parents=True)
        put(run / name)
        refused(rf"{name}: .*remove it", run_config(corpus, run))
