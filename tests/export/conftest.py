"""Tokenizers trained once a session, and checkpoints written by hand from random models."""

import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch

from megatrain.checkpoint.boxes import Box
from megatrain.checkpoint.manifest import Manifest, StoredBox, StoredTensor, box_key, write_manifest
from megatrain.checkpoint.place import LocalPlace
from megatrain.checkpoint.storage import Entry, safetensors_chunks, write_hashed
from megatrain.config import Config, ModelConfig, to_yaml
from megatrain.data.documents import Documents
from megatrain.data.tokenizer import Tokenizer, save_tokenizer
from megatrain.export.card import RunFacts
from megatrain.export.hf import ExportResult, export_hf
from megatrain.export.names import logical_shapes
from megatrain.state import RunState

CORPUS = Path(__file__).resolve().parents[2] / "data_tools" / "corpus"


def real_texts(documents: int) -> list[str]:
    """The first scenes and poems of the bundled corpus."""
    texts = []
    for name in ("drama", "verse"):
        with gzip.open(CORPUS / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            texts += [json.loads(line)["text"] for line, _ in zip(file, range(documents), strict=False)]
    return texts


def train(folder: Path, **changes: Any) -> Path:
    """A small sentencepiece model; the defaults are those of data preparation."""
    options = {
        "model_type": "bpe",
        "vocab_size": 1600,
        "character_coverage": 0.98,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "allow_whitespace_only_pieces": True,
        "user_defined_symbols": ["\n"],
        "pad_id": -1,
        "minloglevel": 2,
        "max_sentence_length": 100_000,
    }
    lines = (line for text in real_texts(60) for line in text.split("\n"))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, **(options | changes)
    )
    save_tokenizer(folder, model.getvalue())
    return folder


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("spm") / "tokenizer")


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_folder)


def tiny_model(tokenizer: Tokenizer, **changes: Any) -> ModelConfig:
    """A model for that tokenizer, with some rows of padding."""
    shape = {
        "dim": 32,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 12,
        "ffn_dim": 48,
        "init_std": 0.1,
    }
    return ModelConfig(**({"vocab_size": tokenizer.vocab_size + 24} | shape | changes))


def write_checkpoint(
    folder: Path,
    model: ModelConfig,
    tokenizer: str,
    spoil: Callable[[str, torch.Tensor], object] | None = None,
    documents: Documents = "start",
) -> Path:
    """A checkpoint of random weights, matrices cut into two boxes in two files, with moments beside them."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(1)
    boxes: list[list[tuple[str, Box, torch.Tensor]]] = [[], []]
    tensors = {}
    for name, shape in logical_shapes(model).items():
        for kind in ("weights", "exp_avg"):
            value = torch.randn(shape, generator=generator) * 0.1 + (1 if len(shape) == 1 else 0)
            if spoil is not None and kind == "weights":
                spoil(name, value)
            cut = shape[0] // 3
            parts = [Box((0,) * len(shape), (cut, *shape[1:]))]
            parts += [Box((cut, *(0,) * (len(shape) - 1)), (shape[0] - cut, *shape[1:]))]
            for file, box in enumerate(parts):
                boxes[file].append((f"{kind}/{name}", box, value[box.within(Box((0,) * len(shape), shape))]))
            stored = tuple(StoredBox(box, file) for file, box in enumerate(parts))
            tensors[f"{kind}/{name}"] = StoredTensor(shape, "F32", stored)
    place = LocalPlace(folder.parent)
    files = tuple(
        write_hashed(
            place,
            f"{folder.name}/attempt-00001-rank-{rank:05d}.safetensors",
            safetensors_chunks(
                [Entry(box_key(name, box), torch.float32, box.shape) for name, box, _ in held],
                [value for _, _, value in held],
            ),
        )
        for rank, held in enumerate(boxes)
    )
    fingerprint = f"{'f' * 32}-{'e' * 32}-96-{documents}"
    state = RunState(seed=1, data_fingerprint=fingerprint, step=int(folder.name[5:]), consumed_tokens=123456)
    layout = {"tensor": 1, "data": 2, "zero": 1}
    manifest = Manifest(
        state,
        model.model_dump(mode="json"),
        tokenizer,
        {"dtype": "fp32", "accumulation": "fp32"},
        layout,
        2.5,
        None,
        "2026-01-01T00:00:00+00:00",
        files,
        tensors,
    )
    write_manifest(place, folder.name, manifest)
    return folder


@dataclass(frozen=True)
class Run:
    folder: Path
    model: ModelConfig
    tokenizer_folder: Path
    facts = RunFacts("tiny", 96, "run:\n  name: tiny\n")

    @property
    def tokenizer_hash(self) -> str:
        return Tokenizer.load(self.tokenizer_folder).hash

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "step-00000020"

    def export(self, out: Path, **settings: Any) -> ExportResult:
        return export_hf(self.checkpoint, self.tokenizer_folder, out, run=self.facts, **settings)


def make_run(folder: Path, tokenizer_folder: Path, documents: Documents = "start", **changes: Any) -> Run:
    """A run with its config and one checkpoint."""
    tokenizer = Tokenizer.load(tokenizer_folder)
    model = tiny_model(tokenizer, **changes)
    run = Run(folder, model, tokenizer_folder)
    write_checkpoint(run.checkpoint, model, tokenizer.hash, documents=documents)
    config = Config.model_validate(
        {"model": model, "tokenizer": {"folder": str(tokenizer_folder)}, "data": {"sequence_length": 96}}
    )
    (folder / "config.yaml").write_text(to_yaml(config, {"world": 2}), encoding="utf-8")
    return run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Run:
    return make_run(tmp_path_factory.mktemp("run") / "run", tokenizer_folder)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """An export in fp32, verified."""
    return run.export(tmp_path_factory.mktemp("export") / "hf", dtype="fp32", texts=real_texts(2)).folder
