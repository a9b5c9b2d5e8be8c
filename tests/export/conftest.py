"""Tokenizers trained once a session, and checkpoints written by hand from random models."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from megatrain.data.tokenizer import Tokenizer, save_tokenizer

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
