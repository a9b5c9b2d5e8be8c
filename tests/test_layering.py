"""Holds the floors of the house: which package imports which, and what no module may do."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A package imports only from the floors above its own line.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "durable", "output", "records", "remote", "settings"),
    ("config", "state", "faults"),
    ("parallel",),
    ("model", "data"),
    ("checkpoint", "observe", "evaluate"),
    ("resilience",),
    ("train",),
    ("cluster", "export", "plan"),
    ("cli", "__main__", "launch"),
)
# Imports within one floor, (who, whom), each with its reason.
NEIGHBOURS: dict[tuple[str, str], str] = {
    ("__main__", "cli"): "python -m megatrain is the command line",
    ("remote", "errors"): "a URL that names nothing is the user's",
    ("records", "durable"): "a record is put in place as any file",
    ("settings", "records"): "a config is read as a record is: no FIFO, no folder, of limited size",
    ("settings", "errors"): "what is wrong with a config is the user's",
    ("config", "faults"): "the points and actions that a config may name",
}
DATA_TOOLS_USES = {"data", "faults", "errors", "durable", "output", "records", "remote", "settings"}
HANDS_OVER_TO_DATA_TOOLS = "cli"

FLOOR_OF = {unit: floor for floor, units in enumerate(FLOORS) for unit in units}
OBJECT_COLLECTIVES = {
    "all_gather_object",
    "broadcast_object_list",
    "gather_object",
    "scatter_object_list",
    "send_object_list",
    "recv_object_list",
}
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}


def sources(root: Path) -> list[Path]:
    return sorted(
        path for top in ("megatrain", "data_tools", "launch") for path in (root / top).rglob("*.py")
    )


def imported_modules(tree: ast.Module, package: list[str]) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import at any depth; `from a import b` gives `a.b`, perhaps a module."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for name in names:
                    yield node.lineno, name.name
            case ast.ImportFrom(module=module, names=names, level=level):
                base = package[: len(package) - level + 1] if level else []
                for name in names:
                    yield node.lineno, ".".join([*base, *([module] if module else []), name.name])
            case ast.Call(
                func=ast.Name(id=called) | ast.Attribute(attr=called),
                args=[ast.Constant(value=str(name)), *_],
            ):
                if called in ("import_module", "__import__"):
                    yield node.lineno, name


def unit_of(parts: tuple[str, ...] | list[str]) -> str:
    """The unit a dotted name belongs to: `megatrain.train.loop` to `train`; other trees to their own name.

    `megatrain` itself (its version) belongs to "".
    """
    if parts[0] != "megatrain":
        return parts[0]
    return parts[1] if len(parts) > 1 and parts[1] in FLOOR_OF else ""


def broken_floors(root: Path) -> list[str]:
    found = []
    for path in sources(root):
        where = path.relative_to(root)
        parts = list(where.with_suffix("").parts)
        package = parts[:-1]
        if parts[-1] == "__init__":
            parts.pop()
        unit = unit_of(parts)
        if parts[0] == "megatrain" and len(parts) > 1 and not unit:
            found.append(f"{where}: megatrain.{parts[1]} stands on no floor: give it one in FLOORS")
            continue
        for line, name in imported_modules(ast.parse(path.read_text(encoding="utf-8")), package):
            target_parts = name.split(".")
            if target_parts[0] not in ("megatrain", "data_tools", "launch"):
                continue
            target = unit_of(target_parts)
            if target not in (unit, "") and not allowed(unit, target):
                found.append(f"{where}:{line}: {unit or 'megatrain/__init__'} must not import {name}")
    return found


def allowed(unit: str, target: str) -> bool:
    if unit == "data_tools":
        return target in DATA_TOOLS_USES
    if target == "data_tools":
        return unit == HANDS_OVER_TO_DATA_TOOLS
    if unit == "":  # megatrain/__init__.py
        return False
    return FLOOR_OF[target] < FLOOR_OF[unit] or (unit, target) in NEIGHBOURS


def broken_customs(root: Path) -> list[str]:
    found = []
    for path in sources(root):
        where = path.relative_to(root)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if ast.get_docstring(tree) is None:
            found.append(f"{where}: says nothing about what it owns (a docstring)")
        found += [
            f"{where}:{line}: imports {name}"
            for line, name in imported_modules(tree, [])
            if name.split(".")[0] in PICKLES
        ]
        for node in ast.walk(tree):
            what = forbidden(node)
            if what:
                found.append(f"{where}:{node.lineno}: {what}")  # type: ignore[attr-defined]
    return found


def forbidden(node: ast.AST) -> str | None:
    match node:
        case ast.Global(names=names):
            return f"global {', '.join(names)}"
        case ast.Attribute(value=ast.Name(id="torch"), attr="load"):
            return "torch.load reads pickles"
        case ast.Attribute(attr=str(name)) | ast.Name(id=str(name)) if name in OBJECT_COLLECTIVES:
            return f"{name} of torch exchanges pickles; parallel/collectives.py exchanges JSON"
        case ast.Attribute(value=ast.Name(id="os"), attr="system" | "popen" as attr):
            return f"os.{attr} goes through a shell"
        case ast.keyword(arg="shell", value=ast.Constant(value=True)):
            return "shell=True"
        case ast.ImportFrom(module="torch", names=names) if any(name.name == "load" for name in names):
            return "torch.load reads pickles"
        case ast.ImportFrom(module="os", names=names) if any(
            name.name in ("system", "popen") for name in names
        ):
            return "os.system goes through a shell"
    return None


def test_every_import_goes_to_a_floor_above() -> None:
    assert broken_floors(ROOT) == []


def test_no_pickles_no_shells_no_globals_and_a_docstring() -> None:
    assert broken_customs(ROOT) == []


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        (
            "megatrain/model/mlp.py",
            "from megatrain.train import loop",
            "must not import megatrain.train.loop",
        ),
        ("megatrain/model/mlp.py", "import megatrain.data.order", "must not import megatrain.data.order"),
        ("megatrain/data/loader.py", "from megatrain import model", "must not import megatrain.model"),
        (
            "megatrain/data/loader.py",
            "from ..model.mlp import MLP",
            "must not import megatrain.model.mlp.MLP",
        ),
        ("megatrain/data/__init__.py", "from ..model import MLP", "must not import megatrain.model.MLP"),
        (
            "megatrain/evaluate/loss.py",
            "from megatrain.observe.ledger import x",
            "must not import megatrain.observe",
        ),
        ("megatrain/state.py", "def f():\n    from megatrain.parallel import context", "must not import"),
        ("megatrain/errors.py", "from megatrain.state import RunState", "must not import megatrain.state"),
        (
            "megatrain/config/tree.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from megatrain.model import mlp",
            "tree.py:4: config must not import",
        ),
        (
            "megatrain/train/loop.py",
            "import importlib\nimportlib.import_module('megatrain.cli')",
            "megatrain.cli",
        ),
        ("megatrain/train/loop.py", "import data_tools.clean", "must not import data_tools.clean"),
        ("megatrain/cli.py", "import launch.pretrain", "must not import launch"),
        ("megatrain/__init__.py", "from megatrain.train import loop", "megatrain/__init__ must not import"),
        ("megatrain/attic/x.py", "", "megatrain.attic stands on no floor"),
        ("data_tools/clean.py", "from megatrain.config import Config", "must not import megatrain.config"),
        ("data_tools/clean.py", "from launch import pretrain", "must not import launch"),
    ],
)
def test_the_test_of_floors_can_fail(tmp_path: Path, path: str, text: str, complaint: str) -> None:
    write(tmp_path, path, text)
    assert len(broken_floors(tmp_path)) == 1
    assert complaint in broken_floors(tmp_path)[0]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            "megatrain/model/mlp.py",
            "import torch\nfrom megatrain.parallel.plan import Column\nfrom .norm import Norm",
        ),
        (
            "megatrain/train/loop.py",
            "from megatrain import __version__\nfrom megatrain.checkpoint import store",
        ),
        ("megatrain/cli/prepare.py", "def f():\n    from data_tools import prepare"),
        ("megatrain/cli.py", "import data_tools.prepare"),
        ("data_tools/clean.py", "from megatrain.data.shard import Writer\nimport data_tools.readers"),
        ("launch/pretrain.py", "from megatrain.train.loop import train"),
    ],
)
def test_the_test_of_floors_can_pass(tmp_path: Path, path: str, text: str) -> None:
    write(tmp_path, path, text)
    assert broken_floors(tmp_path) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load(path)",
        "dist.all_gather_object(values, value)",
        "broadcast_object_list([value])",
        "from torch import load",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
        "def f():\n    global x",
    ],
)
def test_the_test_of_customs_can_fail(tmp_path: Path, line: str) -> None:
    write(tmp_path, "megatrain/state.py", line)
    assert len(broken_customs(tmp_path)) == 1
    (tmp_path / "megatrain/state.py").write_text("x = 1\n")
    assert "says nothing" in broken_customs(tmp_path)[0]


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f'"""A module."""\n{text}\n')
