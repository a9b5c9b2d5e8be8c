"""Commands called in this process, on copies of a tiny dataset; starting a rank would be a failure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

from megatrain.checkpoint.manifest import sealed_text
from megatrain.cli.main import main
from megatrain.cluster import supervisor
from megatrain.config import ModelConfig
from megatrain.data.tokenizer import Tokenizer
from megatrain.records import OWN_HASH
from tests.distributed.corpus import BASE
from tests.distributed.corpus import corpus as corpus  # a fixture
from tests.export.conftest import write_checkpoint


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


Call = Callable[..., Ended]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call the command line. Its last word must come before any rank is started."""

    def started(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("ranks were started")

    monkeypatch.setattr(supervisor.subprocess, "Popen", started)

    def call(*arguments: object) -> Ended:
        capsys.readouterr()
        try:
            code: object = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        assert isinstance(code, int)
        return Ended(code, captured.out, captured.err)

    return call


@dataclass(frozen=True)
class Scene:
    """A folder with everything a run needs, free to be damaged."""

    folder: Path
    data: Path
    config: Path
    run: Path

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(**yaml.safe_load(BASE)["model"])

    @property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.data / "train")

    def checkpoint(self, step: int = 10, **changes: Any) -> Path:
        """Write a checkpoint of this model, or of a changed one, into the run's folder."""
        model = self.model.model_copy(update=changes)
        folder = self.run / "checkpoints" / f"step-{step:08d}"
        return write_checkpoint(folder, model, self.tokenizer.hash)

    def files(self) -> dict[str, tuple[int, int]]:
        """Every file and folder with its size and time."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            stat = path.lstat()
            found[str(path.relative_to(self.folder))] = (
                stat.st_size if path.is_file() else 0,
                stat.st_mtime_ns,
            )
        return found


@pytest.fixture
def scene(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """The current folder is the scene's, with a space in its name."""
    folder = tmp_path / "a scene"
    folder.mkdir()
    monkeypatch.chdir(folder)
    data = shutil.copytree(corpus, folder / "data")
    tree = yaml.safe_load(BASE)
    tree["data"]["sources"] = [{"path": "data"}]
    tree["run"] = {"folder": "run"}
    tree["cluster"] = {"processes": 2}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(tree))
    return Scene(folder, data, config, folder / "run")


def flip_byte(path: Path, at: int | None = None) -> None:
    """Change one byte in the middle of a file, and nothing else."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    path.write_bytes(content)


def edit_manifest(checkpoint: Path, **changes: Any) -> None:
    """Change top-level entries of a checkpoint's manifest."""
    path = checkpoint / "MANIFEST.json"
    tree = json.loads(path.read_text()) | changes
    tree.pop(OWN_HASH)
    path.write_bytes(sealed_text(json.dumps(tree)[:-1].encode()))
