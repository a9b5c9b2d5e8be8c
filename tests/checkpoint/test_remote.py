"""Checkpoints on object storage: an S3 server that runs here, from its refusals to whole runs."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import re
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from fsspec.registry import _registry
from moto import settings
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from megatrain.checkpoint.place import Place, RemotePlace, open_place, require_reachable
from megatrain.cli.main import main
from megatrain.config import Config, to_yaml
from megatrain.errors import FailedWork, UserError
from tests.checkpoint.test_place import Server, fresh_fs, views
from tests.checkpoint.test_place import no_waiting as no_waiting  # fixtures
from tests.checkpoint.test_place import s3 as s3
from tests.checkpoint.test_place import server as server
from tests.distributed.corpus import BASE, Play, curve, events, play_runs, run_config
from tests.distributed.corpus import corpus as corpus
from tests.distributed.ranks import RankFailure, reserve_port, run_ranks
from tests.distributed.test_layouts import TOLERANCE

MIB = 1 << 20
SECRET = "very-secret"


def remote(path: str = "run", staging: Path | None = None) -> RemotePlace:
    place = open_place(f"s3://bucket/{path}", str(staging) if staging else None)
    assert isinstance(place, RemotePlace)
    return place


# --- uploads ---


def test_a_large_file_goes_in_parts(s3: Server, tmp_path: Path) -> None:
    """Above 100 MiB s3fs sends parts of 50 MiB; a part that fails is sent again, not the whole."""
    place = remote(staging=tmp_path)
    block = os.urandom(MIB)
    s3.refuse_next(1, "PUT", "partNumber=2")
    place.write("big/x", views(*[block] * 110))
    puts = [target for method, target in s3.asked if method == "PUT"]
    assert sorted(re.findall(r"partNumber=(\d)", " ".join(puts))) == ["1", "2", "2", "3"]
    out = bytearray(3)
    file = place.open("big/x")
    assert file.size == 110 * MIB
    file.read_into(50 * MIB - 1, memoryview(out))  # over the border of two parts
    assert out == block[-1:] + block[:2]
    assert os.listdir(tmp_path) == [], "nothing stays on the local disk"


def test_an_upload_that_fails_leaves_nothing(
    s3: Server, no_waiting: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megatrain.remote.TRIES", 2)
    place = remote(staging=tmp_path)
    place.write("big/x", views(b"old"))
    # Once each part had its tries, the whole is begun anew; the parts that had arrived are given back.
    s3.refuse_next(1000, "PUT", "partNumber=2", "500 InternalError")
    with pytest.raises(OSError, match=r"tried 2 times\).*s3://bucket/run/big/x"):
        place.write("big/x", views(*[bytes(MIB)] * 101))
    assert place.read("big/x") == b"old" and place.files("big") == ["x"]
    assert fresh_fs().list_multipart_uploads("bucket") == []
    assert os.listdir(tmp_path) == []


def test_one_put_makes_a_manifest(s3: Server) -> None:
    remote().write("step-1/MANIFEST.json", views(b"x" * 6 * MIB))
    assert [method for method, _ in s3.asked] == ["PUT", "HEAD"]


def test_many_objects_and_a_folder_that_a_tool_made(s3: Server) -> None:
    place = remote("run")
    for marker in ("run/", "run/step-1/"):
        boto3.client("s3").put_object(Bucket="bucket", Key=marker)
    assert place.folders() == ["step-1"] and place.files("step-1") == []
    names = [f"{n:04d}" for n in range(1001)]  # a page of a listing has 1000
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for name in names:
        backend.put_object("bucket", f"run/step-1/{name}", b"")
    assert place.files("step-1") == names
    place.remove_folder("step-1")
    assert place.files("step-1") == [] and place.folders() == []


def test_a_removal_that_is_refused_is_told(
    s3: Server, no_waiting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = remote()
    place.write("step-1/x", views(b"x"))
    # So s3fs ends where the answer to a bulk request lists errors.
    monkeypatch.setattr(type(place._fs), "_bulk_delete", nothing_deleted)
    with pytest.raises(OSError, match="1 objects could not be removed"):
        place.remove_folder("step-1")


async def nothing_deleted(*_: Any, **__: Any) -> list[str]:
    return []


def in_a_fork(place: Place, pipe: Any) -> None:
    place.write("step-1/child", views(b"child"))
    pipe.send(place.read("step-1/parent"))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_a_fork(s3: Server) -> None:
    """fsspec's event loop is a thread, which a fork leaves behind."""
    place = remote()
    place.write("step-1/parent", views(b"parent"))
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=in_a_fork, args=(place, theirs))
    child.start()
    assert ours.poll(60) and ours.recv() == b"parent"
    child.join()
    assert place.files("step-1") == ["child", "parent"]


# --- refusals ---


def told(place: Place, kind: type[Exception]) -> str:
    """The one line, which shows no secret."""
    with pytest.raises(kind) as caught:
        require_reachable(place)
    text = str(caught.value)
    assert "\n" not in text and SECRET not in text and text.startswith(f"checkpoint.folder ({place})")
    return text


def test_refusals_are_told_at_once(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only the user can mend is one line and exit code 2, without a second try."""
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("tried again"))
    assert "No such bucket; make it" in told(open_place("s3://other-bucket/run"), UserError)
    with pytest.raises(FileNotFoundError, match="No such bucket"):
        open_place("s3://other-bucket/run").write("a/1", views(b"x"))
    assert told(open_place("s3://B/run"), UserError)

    iam = boto3.client("iam")
    iam.create_user(UserName="somebody")
    key = iam.create_access_key(UserName="somebody")["AccessKey"]
    with monkeypatch.context() as strict:
        strict.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0.0)
        fresh_fs()
        assert "Access Key Id" in told(remote(), UserError)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        fresh_fs()
        assert "signature" in told(remote(), UserError)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        fresh_fs()
        assert "is refused: " in told(remote(), UserError)
        for work in (lambda: remote().write("a/1", views(b"x")), lambda: remote().exists("a/1")):
            with pytest.raises(PermissionError):
                work()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    fresh_fs()
    assert "Unable to locate credentials" in told(remote(), UserError)


def test_an_endpoint_that_is_away(
    s3: Server, no_waiting: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again with growing waits, then one line and exit code 1."""
    waits: list[float] = []
    monkeypatch.setattr("megatrain.remote.time.sleep", waits.append)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{reserve_port()}")
    fresh_fs()
    with caplog.at_level(logging.WARNING):
        text = told(remote(), FailedWork)
    assert "cannot be reached" in text and "(tried 5 times)" in text and len(waits) == 4
    assert sum("again in" in line for line in caplog.messages) == 4 and SECRET not in caplog.text


def test_a_server_that_recovers(s3: Server, no_waiting: None) -> None:
    place = remote()
    s3.refuse_next(4, "PUT", status="500 InternalError")
    place.write("a/1", views(b"x"))
    s3.refuse_next(4, "GET", status="503 ServiceUnavailable")
    assert place.read("a/1") == b"x"
    s3.refuse_next(4, "HEAD", status="500 InternalError")
    assert place.exists("a/1")


# --- bad input ---


@pytest.fixture
def config_file(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tree = {**yaml.safe_load(BASE), "run": {"folder": "run"}, "data": {"sequence_length": 32}}
    tree["data"]["sources"] = [{"path": str(corpus)}]
    Path("config.yaml").write_text(yaml.safe_dump(tree))
    return Path("config.yaml")


def test_bad_input(
    config_file: Path, s3: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(folder: str, *overrides: str) -> str:
        arguments = ["check", str(config_file), "--ranks=2", f"checkpoint.folder={folder}", *overrides]
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1 and SECRET not in captured.err
        return captured.err

    assert "s4://x/y: there is no protocol s4" in refused("s4://x/y")
    assert "names no bucket; write s3://bucket/path" in refused("s3://")
    assert "put them into the environment" in refused(f"s3://key:{SECRET}@bucket/run")
    assert "No such bucket" in refused("s3://other-bucket/run")
    assert "checkpoint.staging (nowhere)" in refused("s3://bucket/run", "checkpoint.staging=nowhere")
    assert main(["check", str(config_file), "--ranks=2", "checkpoint.folder=s3://bucket/run"]) == 0
    capsys.readouterr()
    # As where s3fs is not installed.
    _registry.pop("s3")
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.partition(".")[0] == "s3fs"]:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, "s3fs", None)
        line = refused("s3://bucket/run")
    assert "Install s3fs" in line and "pip install -c constraints.txt -e '.[remote]'" in line


# --- whole runs ---


def stored(config: Config, folder: Path) -> dict[str, list[str]]:
    """Files of each checkpoint of a run in the bucket."""
    place = open_place(str(config.checkpoint.folder))
    return {name: place.files(name) for name in place.folders()}


def flip(path: str) -> None:
    fs = fresh_fs()
    content = bytearray(fs.cat_file(path))
    content[len(content) // 2] ^= 4
    fs.pipe_file(path, bytes(content))


def isclose(ours: dict[int, Any], theirs: dict[int, Any]) -> bool:
    """Another layout adds in another order."""
    return ours.keys() == theirs.keys() and all(
        ours[step] == pytest.approx(theirs[step], rel=TOLERANCE["fp32"]) for step in theirs
    )


def test_runs(
    corpus: Path,
    s3: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Training, a stop, a fall-back, a kill, and the commands that look at what is there, over one bucket."""

    def config(name: str, *overrides: str) -> Config:
        where = [] if name == "local" else [f"checkpoint.folder=s3://bucket/{name}"]
        common = ("model.kv_heads=2", "schedule.kind=constant", "checkpoint.every=3", "checkpoint.keep=2")
        return run_config(corpus, tmp_path / name, *common, *where, *overrides)

    # The server is overloaded for a while: more refusals than botocore alone would bear.
    s3.refuse_next(8, "PUT", "rank-0000")
    plays = [Play(config("local")), Play(config("run"), touch={7: "STOP"})]
    assert run_ranks(play_runs, 2, plays) == [["done", "asked"]] * 2
    assert sum(method == "PUT" for method, _ in s3.asked) >= 8
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert [event["step"] for event in events(tmp_path / "run", "fault")] == []
    last = events(tmp_path / "run", "commit")[-1]["step"]
    assert last in (7, 8) and stored(config("run"), tmp_path).keys() == {"step-00000006", f"step-{last:08d}"}
    # A manifest is put after all other files of its checkpoint.
    puts = [target for method, target in s3.asked if method == "PUT" and f"step-{last:08d}/" in target]
    assert "MANIFEST.json" in puts[-1] and sum("MANIFEST.json" in target for target in puts) == 1

    killed = Play(config("killed"), fault="point=checkpoint.commit,rank=0,hit=2,do=kill")
    with pytest.raises(RankFailure, match=r"died with exit code -9|Connection (closed|reset) by peer"):
        run_ranks(play_runs, 2, [killed])
    assert "MANIFEST.json" not in stored(config("killed"), tmp_path)["step-00000006"]

    newest = f"bucket/run/step-{last:08d}"
    flip(next(path for path in fresh_fs().ls(newest, detail=False) if path.endswith("1.safetensors")))
    other = ("parallel.tensor=2", "parallel.zero=1")
    plays = [Play(config("run", *other)), Play(config("killed", *other))]
    assert run_ranks(play_runs, 2, plays) == [["done", "done"]] * 2
    assert isclose(curve(tmp_path / "run"), curve(tmp_path / "local"))
    assert isclose(curve(tmp_path / "killed"), curve(tmp_path / "local"))
    (fault,) = events(tmp_path / "run", "fault")
    assert f"checkpoint passed over: step-{last:08d}: " in fault["cause"] and "hash differs" in fault["cause"]
    (resumed,) = events(tmp_path / "run", "resume")
    assert resumed["step"] == 6 and "s3://bucket/run/step-00000006" in resumed["cause"]
    (resumed,) = events(tmp_path / "killed", "resume")
    assert resumed["step"] == 3
    for name in ("run", "killed"):
        for folder, files in stored(config(name), tmp_path).items():
            text = fresh_fs().cat_file(f"bucket/{name}/{folder}/MANIFEST.json")
            wanted = ["MANIFEST.json", *(file["name"] for file in json.loads(text)["files"])]
            assert files == sorted(wanted), "rubbish stays"

    # The commands find the checkpoints at the URL that the run's config.yaml names.
    def call(*words: object) -> str:
        capsys.readouterr()
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    run = tmp_path / "run"
    assert (
        "checkpoint" in to_yaml(config("run"), {}) and "s3://bucket/run" in (run / "config.yaml").read_text()
    )
    listed = call("checkpoint", "ls", run).splitlines()
    assert [line.split()[0] for line in listed] == ["step-00000010", "step-00000009"]
    assert all(line.endswith("whole") for line in listed)
    assert call("checkpoint", "verify", run) == "step-00000010  whole\nstep-00000009  whole\n"
    told = call("checkpoint", "diff", run, "s3://bucket/run/step-00000009")
    assert "A s3://bucket/run/step-00000010" in told and "tensors, 0 identical" in told
    assert "step-00000009  removed" in call("checkpoint", "prune", run, "--keep", 1)
    assert stored(config("run"), tmp_path).keys() == {"step-00000010"}
    assert "s3://bucket/run/step-00000010 on the test split" in call("evaluate", run, "--windows", 4)
    assert "s3://bucket/run/step-00000010 exported" in call("export", run)
    flip("bucket/run/step-00000010/MANIFEST.json")
    assert main(["checkpoint", "verify", str(run)]) == 1
