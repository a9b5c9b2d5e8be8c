"""Training gives the same bytes from the same text in any order, and keeps what its section promises."""

import random
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_tools.tokenizer.section import SPECIAL_SETS, TokenizerTraining, check_weights
from data_tools.tokenizer.train import train_tokenizer
from megatrain.data.tokenizer import Tokenizer, describe
from megatrain.errors import UserError
from tests.data.texts import corpus

TEXTS = [text[:4000] for text in corpus("drama", 6)] + corpus("verse", 20)
TEXTS.append("    def answer(n):\n\treturn 1601\n")
CHAT = {"special_tokens": ("chat", "tools", "<a,b>", '["quoted"]'), "reserved_tokens": 3}


def trained(texts: list[str] = TEXTS, **changes: Any) -> Tokenizer:
    section = TokenizerTraining(**{"vocab_size": 1000, "character_coverage": 0.98, **changes})
    model = train_tokenizer(texts, section)
    return Tokenizer(model, describe("sentencepiece", model, vocab_multiple=section.vocab_multiple))


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_the_order_of_texts_does_not_matter(kind: str) -> None:
    section = TokenizerTraining(kind=kind, vocab_size=1000, character_coverage=0.98)
    mixed = list(TEXTS)
    random.Random(0).shuffle(mixed)
    assert train_tokenizer(mixed, section) == train_tokenizer(iter(TEXTS), section)
    assert train_tokenizer(TEXTS[3:], section) != train_tokenizer(TEXTS[:-1], section)


def test_what_the_defaults_promise() -> None:
    tokenizer = trained()
    pieces = [tokenizer.piece(id_) for id_ in range(1000)]
    assert pieces[:4] == ["<unk>", "<s>", "</s>", "\n"] and (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert [piece for piece in pieces if "\n" in piece] == ["\n"]
    assert not [piece for piece in pieces if re.search(r"\d.|.\d", piece) and piece[:3] != "<0x"]
    assert tokenizer.info.padded_vocab_size == 1024


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_special_tokens_are_ids_of_no_text(kind: str) -> None:
    tokenizer = trained(kind=kind, **CHAT)
    names = [*SPECIAL_SETS["chat"], *SPECIAL_SETS["tools"], "<a,b>", '["quoted"]']
    names += [f"<|reserved_{number}|>" for number in range(3)]
    # In the order of the config, behind the control ids.
    assert tokenizer.special_tokens() == {"<s>": 1, "</s>": 2} | {n: i for i, n in enumerate(names, 3)}
    assert tokenizer.vocab_size == 1000
    for name in names:
        ids = tokenizer.encode(f"to {name} be")
        assert not set(ids) & set(range(3, 3 + len(names))) and tokenizer.decode(ids) == f"to {name} be"
        assert tokenizer.decode([tokenizer.special_tokens()[name]]) == ""


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_symbols_are_one_piece_and_nothing_is_lost(kind: str) -> None:
    symbols = ("\n", "\n\n", "\t", "    ", "def")
    tokenizer = trained(kind=kind, user_defined_symbols=symbols)
    ids = tokenizer.encode("to\n\nbe\tor    def")
    assert {tokenizer.piece(id_) for id_ in ids} >= {"\n\n", "\t", "▁▁▁▁", "def"}

    @settings(max_examples=100, deadline=None)
    @given(text=st.text(st.sampled_from(" \n\tdefto1白😀") | st.characters(exclude_categories=["Cs"])))
    def check(text: str) -> None:
        assert tokenizer.decode(tokenizer.encode(text)) == text.replace("▁", " ")

    check()


def test_each_option_reaches_the_model() -> None:
    years = [*TEXTS, "1601 " * 500]
    digits = [len(trained(years, split_digits=split).encode(" 1601")) for split in (True, False)]
    assert digits == [5, 1]
    lossy = trained(byte_fallback=False)
    assert not lossy.byte_ids().any() and lossy.encode("龘") == [0]
    assert trained(vocab_multiple=1).info.padded_vocab_size == 1000
    whole = "".join(TEXTS)
    once = min(character for character in whole if character > "一" and whole.count(character) == 1)
    rare = [len(trained(vocab_size=1500, character_coverage=share).encode(once)) for share in (1.0, 0.98)]
    assert rare == [1, 3]


def test_no_long_line_is_dropped() -> None:
    one_line = "".join(np.random.default_rng(0).choice(list("abcdefgh"), 50_000))
    # Were the line dropped, there would be no text to train on.
    model = train_tokenizer([one_line], TokenizerTraining(vocab_size=300))
    tokenizer = Tokenizer(model, describe("sentencepiece", model))
    assert len(tokenizer.encode(one_line)) < len(one_line) / 1.5


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_what_does_not_fit_is_refused_in_one_line(kind: str) -> None:
    large = TokenizerTraining(kind=kind, vocab_size=40_000)
    with pytest.raises(UserError, match=r"^tokenizer\.vocab_size \(40000\): too large for .* at most \d+$"):
        train_tokenizer(TEXTS, large)
    many = ["".join(map(chr, range(0x4E00, 0x4F00)))]
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size \(301\).*lower tokenizer.character_coverage"):
        train_tokenizer(many, TokenizerTraining(kind=kind, vocab_size=301, character_coverage=1.0))
    for nothing in ([], ["", "\n\n"]):
        with pytest.raises(
            UserError, match=r"^tokenizer: there is no text to train it on; check the sources"
        ):
            train_tokenizer(nothing, TokenizerTraining(kind=kind))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"special_tokens": ("chats",)}, r"'chats' is no set \(chat, tools, code\)"),
        ({"special_tokens": ("<a b>",)}, r"'<a b>' is no set"),
        ({"special_tokens": ("chat", "<|im_start|>")}, r"'<\|im_start\|>' is named twice"),
        ({"special_tokens": ("<|reserved_0|>",), "reserved_tokens": 1}, r"reserved_0\|>' is named twice"),
        ({"special_tokens": ("<x>",), "user_defined_symbols": ("<x>",)}, "'<x>' is named twice"),
        ({"special_tokens": ("</s>",)}, "'</s>' is an id of every tokenizer"),
        ({"user_defined_symbols": ("<0x0A>",)}, "'<0x0A>' is an id of every tokenizer"),
        ({"user_defined_symbols": ("",)}, "cannot be a symbol"),
        ({"user_defined_symbols": ("a▁b",)}, "cannot be a symbol"),
        (
            {"vocab_size": 300, "reserved_tokens": 40},
            r"vocab_size \(300\) leaves no room.*take 300; raise it",
        ),
        ({"weights": {"a": 0, "b": 0}}, "weights are all 0"),
        ({"weights": {"a": -1}}, "greater than or equal to 0"),
        ({"weights": {"a": float("inf")}}, "finite"),
        ({"eos_token": "</s>"}, "name it in `model`"),
        ({"model": "x.model", "special_tokens": ("chat",)}, "special_tokens is for a tokenizer to train"),
        ({"model": "x.model", "vocab_size": 5000}, "vocab_size is for a tokenizer to train"),
        ({"model": "x.model", "split_digits": False}, "split_digits is for a tokenizer to train"),
        ({"model": "x.model", "weights": {"a": 1}}, "weights is for a tokenizer to train"),
        ({"character_coverage": 0.95}, "greater than or equal to 0.98"),
        ({"kind": "wordpiece"}, "'bpe' or 'unigram'"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TokenizerTraining(**changes)


def test_weights_name_all_sources() -> None:
    weighted = TokenizerTraining(weights={"web": 2, "books": 0})
    check_weights(weighted, ["books", "web"])
    check_weights(TokenizerTraining(), ["anything"])
    with pytest.raises(UserError, match=r"no source books; there are web"):
        check_weights(weighted, ["web"])
    with pytest.raises(UserError, match=r"names no weight of code; 0 leaves a source out"):
        check_weights(weighted, ["books", "web", "code"])
