"""The proof that an exported tokenizer encodes as the one that made the training data."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatrain.data.tokenizer import Tokenizer
from megatrain.errors import FailedWork
from megatrain.export import extra

# What converters of tokenizers are known to get wrong.
HARD_TEXTS = (
    "",
    " ",
    "  two leading spaces",
    " one leading space, one trailing ",
    "a  b   c    d",
    " " * 100,
    "\n",
    "\n\n\n",
    "line\n  indented\n\tby a tab\r\nand another\n",
    "x" * 300,
    "0 1 12 123 1234567890 3.14159 1e-5 ١٢٣ ½",
    "Don't we've I'll; \"quoted\" (and [nested] {things})... -- ---",
    "<s> </s> <unk> <pad> <0x41> <0x0A> [INST] <|im_start|>",
    "a literal \u2581 and \u2581\u2581 two, \u2581",
    "中文与English混排，标点。「引号」《书名》——破折号……",
    "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。",
    "日本語のテキスト、カタカナ ｶﾀｶﾅ, 한국어 텍스트",
    "Ünïcödé çà et là: naïve café, e\u0301 as two code points, ﬁ ligature, ｆｕｌｌ width",
    "😀 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 ❤️ 🇨🇳",
    "العربية עברית हिन्दी ไทย Ελληνικά Русский",
    "nbsp\u00a0thin\u2009zero\u200bwidth bom\ufeff line\u2028paragraph\u2029 ideographic\u3000space",
    "nul\x00 esc\x1b del\x7f bell\x07 nel\x85",
    "𠀀𠮷𝕏\U0010fffd \ud7ff \ue000",
    "def f(x):\n    return {'a': [1, 2]}  # comment\n\n\n\nclass A: ...\n",
    "https://example.org/path?query=1&b=%20#frag  C:\\dir\\file.txt",
)


# What a user adds for chats, written as no vocabulary has it.
ADDED = "<|megatrain check|>"


@dataclass(frozen=True)
class SameTokenizer:
    """What an identity was shown on."""

    texts: int
    tokens: int
    special: int
    """Special tokens of which each is one id where a text spells it."""


def verify_tokenizer(
    folder: Path, tokenizer: Tokenizer, *, texts: Sequence[str] = (), random_texts: int = 500
) -> SameTokenizer:
    """Encode hard, random and the given texts with the exported files and with the tokenizer itself.

    Raises FailedWork naming the first text whose ids differ, or whose ids do not decode alike, or a special
    token that is not one id.
    """
    exported = extra.transformers().AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    exported.model_max_length = sys.maxsize  # or it warns of long texts, which no model reads here
    count = tokens = 0
    # In training a text that spelled `</s>` was text. Asked for in the call: stored in the files it would
    # keep everybody from writing EOS.
    plain = {"split_special_tokens": True}
    for text in (*HARD_TEXTS, *texts, *_random_texts(tokenizer, random_texts)):
        ours, theirs = tokenizer.encode(text), exported(text, **plain)["input_ids"]
        if ours != theirs:
            raise FailedWork(
                f"{folder}: the exported tokenizer encodes {text[:60]!r} as {theirs[:12]}, the one of "
                f"the training data as {ours[:12]}"
            )
        lost = exported.unk_token_id in ours  # each side writes an unknown in its own way
        if not lost and tokenizer.decode(ours) != (decoded := exported.decode(ours)):
            raise FailedWork(
                f"{folder}: the exported tokenizer decodes {ours[:12]} as {decoded[:60]!r}, not {text[:60]!r}"
            )
        count, tokens = count + 1, tokens + len(ours)
    return SameTokenizer(count, tokens, _verify_special(folder, exported, tokenizer))


def _verify_special(folder: Path, exported: Any, tokenizer: Tokenizer) -> int:
    """Return the number of special tokens. Raises FailedWork naming one that a text cannot spell."""

    def require_ids(text: str, wanted: Sequence[int], what: str) -> None:
        if (found := exported(text)["input_ids"]) != list(wanted):
            raise FailedWork(
                f"{folder}: {what} in the exported tokenizer: {text!r} gives {found[:12]}, not "
                f"{list(wanted)[:12]}"
            )

    text, eos = "To be", tokenizer.piece(tokenizer.eos_id)
    require_ids(text, tokenizer.encode(text), "something is added to a text")
    require_ids(f"{text}{eos}", [*tokenizer.encode(text), tokenizer.eos_id], f"EOS ({eos}) is not one id")
    special = tokenizer.special_tokens()
    for token, id_ in special.items():
        require_ids(token, [id_], f"{token} is not one id")
    # Ordinary tokens are found after normalisation, in imported files as their authors wrote it.
    kinds: list[dict[str, bool]] = [{"special_tokens": True}, {}]
    for added in kinds[:1] if tokenizer.info.kind == "hf" else kinds:
        token = f"{ADDED[:-1]}{len(exported)}>"
        exported.add_tokens([token], **added)
        id_ = exported.convert_tokens_to_ids(token)
        found = exported(f"{text}{token}{text}")["input_ids"]
        if found.count(id_) != 1:
            raise FailedWork(
                f"{folder}: a token added to the exported tokenizer, {token}, gives {found[:12]}"
            )
    return len(special)


def _random_texts(tokenizer: Tokenizer, count: int) -> Iterator[str]:
    """Runs of pieces in random order, whose seams merge in ways that no corpus has, with rare characters."""
    draw = random.Random(0)
    strangers = " \n\t\u2581\u00a0\u3000éßæ中龘😀\u200d\ufe0f0"
    for _ in range(count):
        ids = [draw.randrange(tokenizer.vocab_size) for _ in range(draw.randint(1, 12))]
        parts = [tokenizer.piece(id_).replace("\u2581", " ") for id_ in ids]
        parts += draw.choices(strangers, k=draw.randint(0, 6))
        draw.shuffle(parts)
        yield "".join(parts)
