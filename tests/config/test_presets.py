"""Every preset loads; the published models have their published shape; the page of all keys is current."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from megatrain.config import Config, derive, load_config
from megatrain.config.deepspeed import UNSUPPORTED
from megatrain.config.reference import keys, reference
from megatrain.model.flops import count_parameters

ROOT = Path(__file__).resolve().parent.parent.parent
PRESETS = sorted((ROOT / "configs").glob("*.yaml"))
LLAMA = [path for path in PRESETS if path.name.startswith("llama-")]


def ids(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", PRESETS, ids=ids)
def test_every_preset_loads(path: Path) -> None:
    config = load_config(path)
    assert config.run.name == path.stem
    assert path.read_text(encoding="utf-8").startswith("# "), (
        "the head says what it is for and on which hardware"
    )
    assert config.data.sources


def absent(tree: dict[str, Any], whole: dict[str, Any], prefix: str = "") -> list[str]:
    """Keys of the whole tree that the file does not write; a null section has no keys."""
    missing = []
    for name, value in whole.items():
        if name not in tree:
            missing.append(prefix + name)
        elif isinstance(value, dict) and prefix + name != "deepspeed":
            missing += absent(tree[name] or {}, value, f"{prefix}{name}.")
    return missing


@pytest.mark.parametrize("path", LLAMA, ids=ids)
def test_published_presets_write_every_key_out(path: Path) -> None:
    config = load_config(path)
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert absent(tree, config.model_dump(mode="json")) == []
    for source in tree["data"]["sources"]:
        assert set(source) == {"path", "name", "weight"}


@pytest.mark.parametrize(
    ("name", "billions", "world", "micro_batches"),
    [
        ("llama-125m", 0.1236, 8, 4),
        ("llama-1b", 1.2358, 8, 32),
        ("llama-8b", 8.0303, 128, 2),
        ("llama-70b", 70.5537, 256, 8),
    ],
)
def test_published_shapes_on_the_stated_hardware(
    name: str, billions: float, world: int, micro_batches: int
) -> None:
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    assert count_parameters(config.model).total / 1e9 == pytest.approx(billions, rel=1e-3)
    assert config.model.heads * config.model.head_dim == config.model.dim
    derived = derive(config, world)
    assert derived.accumulation == micro_batches, "as the preset's comment says"
    assert derived.padded_batch == config.train.global_batch, "no padding rows on the stated hardware"


def test_the_page_is_made_from_the_tree() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == reference(), "run: python -m megatrain.config.reference > docs/configuration.md"


def dotted(schema: dict[str, Any], at: dict[str, Any], prefix: str = "") -> set[str]:
    """All keys, by pydantic's own account."""
    found: set[str] = set()
    for name, field in at.get("properties", {}).items():
        found.add(prefix + name)
        inner = [field, field.get("items", {}), *field.get("anyOf", []), *field.get("allOf", [])]
        for reference_ in filter(None, (part.get("$ref") for part in inner)):
            section = schema["$defs"][reference_.rsplit("/", 1)[1]]
            found |= dotted(schema, section, f"{prefix}{name}.")
    return found


def test_every_key_is_on_the_page() -> None:
    schema = Config.model_json_schema()
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    every = dotted(schema, schema)
    assert len(every) > 80
    leaves = {key for key in every if not any(other.startswith(f"{key}.") for other in every)}
    for key in leaves:
        assert f"| `{key}` |" in page, key
    assert leaves <= set(keys())
    for key in UNSUPPORTED:
        assert f"`{key}`" in page
