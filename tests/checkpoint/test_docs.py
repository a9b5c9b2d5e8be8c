"""The reader that docs/checkpoints.md shows reads a real checkpoint."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch

from megatrain.checkpoint.place import LocalPlace
from megatrain.checkpoint.read import Checkpoint
from tests.checkpoint.test_store import facts, make, values

PAGE = Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md"


def test_the_readers_in_the_docs(tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert "megatrain" not in program.replace("megatrain-checkpoint", ""), "another program reads it"
    store = make(LocalPlace(tmp_path / "checkpoints"))
    store.save(values(), facts(7))
    store.wait()
    folder = tmp_path / "checkpoints" / "step-00000007"
    scope: dict[str, object] = {"__name__": "reader"}
    exec(program, scope)
    read = scope["read_checkpoint"]
    assert callable(read)
    found = read(folder)
    ours = Checkpoint(folder)
    assert set(found) == set(ours.manifest.tensors)
    assert all(torch.equal(found[name], ours.tensor(name)) for name in found)
    script = tmp_path / "reader.py"
    script.write_text(program, encoding="utf-8")
    said = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[1].startswith("weights/m [3, 4] 22.49")
