"""The tokenizer's training as the pipeline of config version 1 calls it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from data_tools.config import TokenizerTraining
from data_tools.tokenizer import section, train
from data_tools.tokenizer.existing import read_tokenizer
from megatrain.errors import require


def train_tokenizer(texts: Iterable[str], config: TokenizerTraining) -> bytes:
    """The model, trained on the first `config.training_bytes` of the texts."""
    settings = section.TokenizerTraining.model_validate(config.model_dump())
    return train.train_tokenizer(_first(texts, config.training_bytes), settings)


def read_model(path: Path) -> bytes:
    """An existing sentencepiece model. Raises UserError where the file is none."""
    found = read_tokenizer(path)
    require(found.kind == "sentencepiece", f"tokenizer.model: {path}: not a sentencepiece model")
    return found.model


def _first(texts: Iterable[str], max_bytes: int) -> Iterator[str]:
    left = max_bytes
    for text in texts:
        yield text
        left -= len(text.encode())
        if left <= 0:
            return
