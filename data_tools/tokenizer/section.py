"""The config section `tokenizer`: an existing tokenizer, or how to train one."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from data_tools.sections import Section
from megatrain.errors import require
from megatrain.settings import PathText

# Sets of special tokens, by the name that stands for them in the config.
SPECIAL_SETS: Mapping[str, tuple[str, ...]] = {
    # ChatML, with a name for each role's turn written as text behind <|im_start|>.
    "chat": ("<|im_start|>", "<|im_end|>"),
    "tools": (
        "<|tools|>",
        "<|/tools|>",
        "<|tool_call|>",
        "<|/tool_call|>",
        "<|tool_response|>",
        "<|/tool_response|>",
        "<|think|>",
        "<|/think|>",
    ),
    # Code with a gap to fill, and what stands between files of a repository.
    "code": (
        "<|fim_prefix|>",
        "<|fim_middle|>",
        "<|fim_suffix|>",
        "<|fim_pad|>",
        "<|repo_name|>",
        "<|file_sep|>",
    ),
}
CONTROL = ("<unk>", "<s>", "</s>")

Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


_OF_TRAINING = (
    "kind",
    "vocab_size",
    "character_coverage",
    "training_bytes",
    "weights",
    "byte_fallback",
    "split_digits",
    "user_defined_symbols",
    "special_tokens",
    "reserved_tokens",
)
"""The settings that a tokenizer that is there already does without."""


class TokenizerTraining(Section):
    """The tokenizer: an existing one, or how to train one by sentencepiece on a sample of the train split."""

    model: PathText | None = None
    """An existing tokenizer: a tokenizer.model, a tokenizer.json, or a folder with one; null: train one."""
    eos_token: str | None = None
    """Of an existing tokenizer: what ends a document, where its files do not say or say something else."""
    bos_token: str | None = None
    """Of an existing tokenizer, like `eos_token`."""
    kind: Literal["bpe", "unigram"] = "bpe"
    vocab_size: Annotated[int, Field(ge=300, le=2**31 - 1)] = 32_000
    """Ids in all: pieces, bytes, control and special tokens."""
    character_coverage: Annotated[float, Field(ge=0.98, le=1.0)] = 0.9995
    """The share of the sample's characters that get a piece, 0.98 at least; the rest becomes bytes."""
    training_bytes: Annotated[int, Field(gt=0)] = 200_000_000
    """How much text at most it is trained on; training takes ten times as much memory."""
    weights: dict[str, Weight] | None = None
    """Each source's share of that text; null: as much as it has of all text."""
    byte_fallback: bool = True
    """False: a character without a piece is lost, as the unknown id."""
    split_digits: bool = True
    """Whether each digit is a piece of its own."""
    user_defined_symbols: tuple[str, ...] = ("\n",)
    """Strings that are always one piece, wherever a text holds them."""
    special_tokens: tuple[str, ...] = ()
    """Ids that no text encodes to: sets by name (chat, tools, code) and names of your own."""
    reserved_tokens: Annotated[int, Field(ge=0, le=100_000)] = 0
    """So many more, named <|reserved_0|> and so on."""
    vocab_multiple: Annotated[int, Field(ge=1)] = 128
    """The manifest's `padded_vocab_size`, for the model's rows, is a multiple of it."""

    @property
    def all_special_tokens(self) -> tuple[str, ...]:
        """The names of all special tokens, in the order of their ids."""
        return tuple(_special_tokens(self.special_tokens, self.reserved_tokens))

    @model_validator(mode="after")
    def _fits_together(self) -> "TokenizerTraining":
        if self.model is not None:
            fields = type(self).model_fields
            given = [key for key in _OF_TRAINING if getattr(self, key) != fields[key].default]
            if given:
                raise ValueError(f"{given[0]} is for a tokenizer to train; leave it out beside `model`")
        elif self.eos_token is not None or self.bos_token is not None:
            raise ValueError("eos_token and bos_token are for an existing tokenizer; name it in `model`")
        _check_symbols(self.all_special_tokens, self.user_defined_symbols)
        taken = len(CONTROL) + len(self.all_special_tokens) + len(self.user_defined_symbols)
        taken += 256 if self.byte_fallback else 0
        if self.model is None and taken >= self.vocab_size:
            raise ValueError(
                f"vocab_size ({self.vocab_size}) leaves no room for pieces: bytes, symbols and special "
                f"tokens take {taken}; raise it"
            )
        if self.weights is not None and not sum(self.weights.values()):
            raise ValueError("weights are all 0; give one source a weight, or leave them out")
        return self


def check_weights(section: TokenizerTraining, sources: Sequence[str]) -> None:
    """Raise UserError unless `weights`, where given, name all the sources and nothing else."""
    if section.weights is None:
        return
    strangers = [name for name in section.weights if name not in sources]
    require(
        not strangers,
        f"tokenizer.weights: there is no source {', '.join(strangers)}; there are {', '.join(sources)}",
    )
    missing = [name for name in sources if name not in section.weights]
    require(not missing, f"tokenizer.weights: names no weight of {', '.join(missing)}; 0 leaves a source out")


def _special_tokens(names: Sequence[str], reserved: int) -> Iterator[str]:
    for name in names:
        yield from SPECIAL_SETS.get(name, (name,))
    yield from (f"<|reserved_{number}|>" for number in range(reserved))


def _check_symbols(special: Sequence[str], symbols: Sequence[str]) -> None:
    for name in special:
        if not re.fullmatch(r"<\S+>|\[\S+\]", name):
            sets = ", ".join(SPECIAL_SETS)
            raise ValueError(f"special_tokens: {name!r} is no set ({sets}), nor written <...> or [...]")
    for name in (*special, *symbols):
        if not name or "▁" in name or "\x00" in name:
            raise ValueError(f"{name!r} cannot be a symbol: it is empty, or holds what sentencepiece needs")
        if name in CONTROL or re.fullmatch(r"<0x[0-9A-F]{2}>", name):
            raise ValueError(f"{name!r} is an id of every tokenizer; choose another name")
    for name, count in Counter([*special, *symbols]).items():
        if count > 1:
            raise ValueError(f"special_tokens, user_defined_symbols: {name!r} is named twice; name it once")
