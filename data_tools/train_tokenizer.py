"""The training of a sentencepiece BPE tokenizer on whole documents, the same wherever it runs."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_tools.config import TokenizerTraining
from megatrain.errors import UserError

# A longer line is cut here: sentencepiece would drop it, and no piece grows across this many characters.
_MAX_LINE_CHARACTERS = 10_000
# Part of the model file, hence a constant: the file must not depend on the machine.
_THREADS = 8


def train_tokenizer(texts: Iterable[str], config: TokenizerTraining) -> bytes:
    """The model, trained on at most `config.training_bytes` of the texts.

    Bytes stand in for rare characters, digits are single, spaces and newlines survive as they are; a
    newline is a piece of its own. Raises UserError where the texts do not fit the vocabulary size.
    """
    import sentencepiece

    model = io.BytesIO()
    options: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": config.vocab_size,
        "character_coverage": config.character_coverage,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "allow_whitespace_only_pieces": True,
        "user_defined_symbols": ["\n"],
        "max_sentence_length": 4 * _MAX_LINE_CHARACTERS + 4,
        "num_threads": _THREADS,
        "unk_id": 0,
        "bos_id": 1,
        "eos_id": 2,
        "pad_id": -1,
        "minloglevel": 2,
    }
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts, config.training_bytes), model_writer=model, **options
        )
    except RuntimeError as error:
        raise UserError(_why(str(error), config)) from None
    return model.getvalue()


def read_model(path: Path) -> bytes:
    """An existing sentencepiece model. Raises UserError where the file is none."""
    import sentencepiece

    try:
        model = path.read_bytes()
        sentencepiece.SentencePieceProcessor(model_proto=model)
    except OSError as error:
        raise UserError(f"tokenizer.model: {path}: cannot be read: {error.strerror}") from None
    except RuntimeError:
        raise UserError(f"tokenizer.model: {path}: not a sentencepiece model") from None
    return model


def _lines(texts: Iterable[str], max_bytes: int) -> Iterator[str]:
    # A newline is a symbol that no piece crosses, so lines hold all that there is to learn from a document.
    left = max_bytes
    for text in texts:
        for line in text.split("\n"):
            for at in range(0, len(line), _MAX_LINE_CHARACTERS):
                yield line[at : at + _MAX_LINE_CHARACTERS]
        left -= len(text.encode())
        if left <= 0:
            return


def _why(error: str, config: TokenizerTraining) -> str:
    if "too high" in error:
        limit = error.rsplit("<=", 1)[-1].strip(" .")
        return f"tokenizer.vocab_size ({config.vocab_size}): too large for the text; at most {limit}"
    if "smaller than required_chars" in error or "too small" in error:
        return (
            f"tokenizer.vocab_size ({config.vocab_size}): smaller than the number of characters in the text; "
            f"raise it, or lower tokenizer.character_coverage ({config.character_coverage})"
        )
    return f"tokenizer: training failed: {' '.join(error.split())}"
