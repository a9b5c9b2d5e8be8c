"""The training of a sentencepiece tokenizer on whole documents, the same wherever it runs."""

import io
from collections.abc import Iterable, Iterator
from typing import Any

from data_tools.tokenizer.section import TokenizerTraining
from megatrain.data.tokenizer_spm import SPACE
from megatrain.errors import UserError

# A longer line is cut here: sentencepiece would drop it, and no piece grows across this many characters.
_MAX_LINE_CHARACTERS = 10_000
# Part of the model file, hence a constant: the file must not depend on the machine.
_THREADS = 8


def train_tokenizer(texts: Iterable[str], section: TokenizerTraining) -> bytes:
    """The model; the order of the texts does not matter to it.

    Spaces and newlines survive as they are. Raises UserError where the texts do not fit the vocabulary size.
    """
    import sentencepiece

    model = io.BytesIO()
    options: dict[str, Any] = {
        "model_type": section.kind,
        "vocab_size": section.vocab_size,
        "character_coverage": section.character_coverage,
        "byte_fallback": section.byte_fallback,
        "split_digits": section.split_digits,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "allow_whitespace_only_pieces": True,
        # Spaces as sentencepiece writes them: it would never find others.
        "user_defined_symbols": [symbol.replace(" ", SPACE) for symbol in section.user_defined_symbols],
        # No text encodes to a control symbol, whoever wrote it.
        "control_symbols": list(section.all_special_tokens),
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
            sentence_iterator=_lines(texts), model_writer=model, **options
        )
    except RuntimeError as error:
        raise UserError(_why(str(error), section)) from None
    return model.getvalue()


def _lines(texts: Iterable[str]) -> Iterator[str]:
    # A newline is a symbol or a byte that no piece crosses: lines hold all there is to learn from a document.
    for text in texts:
        for line in text.split("\n"):
            for at in range(0, len(line), _MAX_LINE_CHARACTERS):
                yield line[at : at + _MAX_LINE_CHARACTERS]


def _why(error: str, section: TokenizerTraining) -> str:
    if "too high" in error:
        limit = error.rsplit("<=", 1)[-1].strip(" .")
        return f"tokenizer.vocab_size ({section.vocab_size}): too large for the text; at most {limit}"
    if "smaller than required_chars" in error or "too small" in error:
        return (
            f"tokenizer.vocab_size ({section.vocab_size}): fewer than the characters in the text; "
            f"raise it, or lower tokenizer.character_coverage ({section.character_coverage})"
        )
    if "empty" in error:
        return "tokenizer: there is no text to train it on; check the sources and tokenizer.weights"
    return f"tokenizer: training failed: {' '.join(error.split())}"
