"""The tokenizer loses nothing, knows how many bytes each id stands for, and encodes as sentencepiece does."""

import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from megatrain.data import tokenizer_spm
from megatrain.data.manifest import TokenizerInfo
from megatrain.data.text_blocks import text_blocks
from megatrain.data.tokenizer import (
    INFO_FILE,
    MODEL_FILE,
    Tokenizer,
    describe,
    load_model,
    read_info,
    save_tokenizer,
)
from megatrain.data.tokenizer_spm import SentencePieceModel
from megatrain.errors import FailedWork, UserError
from megatrain.records import OWN_HASH, sealed
from tests.data.texts import corpus

TEXTS = [
    "To be, or not to be:  that is the question.\n\n\tHAMLET.\nWhether 'tis nobler in 1601\n",
    "白日依山盡，\n黃河入海流。\n",
] * 20
ANY_TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="▁") | st.sampled_from("\n\t 1a。")
)
# What is hard on a cut into words: runs of spaces and lines, sentencepiece's own sign, unknown characters.
SPACED_TEXT = st.text(st.sampled_from(" \n\n ▁aet,1山é\t") | st.characters(exclude_categories=["Cs"]))


def train(texts: list[str], **changes: Any) -> bytes:
    """A sentencepiece model; the defaults are those of data preparation."""
    options: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": 340,
        "byte_fallback": True,
        "split_digits": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "allow_whitespace_only_pieces": True,
        "user_defined_symbols": ["\n"],
        "minloglevel": 2,
    }
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in texts for line in text.split("\n")),
        model_writer=model,
        **(options | changes),
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "data" / "tokenizer"
    save_tokenizer(folder, train(TEXTS))
    return folder


@pytest.fixture(scope="module")
def tokenizer(home: Path) -> Tokenizer:
    return Tokenizer.load(home)


@settings(max_examples=200, deadline=None)
@given(text=ANY_TEXT)
def test_round_trip_and_bytes(home: Path, tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert int(tokenizer.byte_lengths()[ids].sum()) == len(text.encode())
    assert b"".join(tokenizer.contents()[id_] for id_ in ids) == text.encode()
    assert tokenizer.encode_batch([text, text]) == [ids, ids]
    many = tokenizer.encode_many([text, "", text])
    assert many.tokens.tolist() == [*ids, 2, 2, *ids, 2]
    assert many.lengths.tolist() == [len(ids) + 1, 1, len(ids) + 1]


def test_tokens_come_in_the_dtype_of_shards(tokenizer: Tokenizer) -> None:
    none = tokenizer.encode_many([])
    assert none.tokens.dtype == np.uint16 and none.lengths.dtype == np.int64
    assert len(none.tokens) == len(none.lengths) == 0
    assert tokenizer.encode_many(TEXTS).tokens.dtype == np.uint16


def test_ids_that_stand_for_no_text(tokenizer: Tokenizer) -> None:
    lengths, pieces = tokenizer.byte_lengths(), [tokenizer.piece(id_) for id_ in range(340)]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (1, 2, 340)
    assert lengths[[0, 1, 2]].tolist() == [0, 0, 0] and (lengths[3:] > 0).all()
    assert lengths.dtype == np.int32
    assert lengths[pieces.index("▁")] == lengths[pieces.index("<0xE9>")] == 1
    assert np.flatnonzero(tokenizer.byte_ids()).tolist() == [pieces.index(f"<0x{b:02X}>") for b in range(256)]
    assert tokenizer.encode("") == [] and tokenizer.decode([1, 2]) == ""
    assert tokenizer.special_tokens() == {"<s>": 1, "</s>": 2}
    assert 2 not in tokenizer.encode("a text </s> of markup")


KINDS: dict[str, tuple[dict[str, Any], bool]] = {
    "ours": ({}, True),
    "with a space before the text, as Llama 2": (
        {"add_dummy_prefix": True, "user_defined_symbols": []},
        True,
    ),
    "newline as a byte": ({"user_defined_symbols": []}, True),
    "symbols of spaces and lines": ({"user_defined_symbols": ["\n", "\n\n", "\t", "▁▁▁▁"]}, True),
    "without bytes": ({"byte_fallback": False}, True),
    "without bytes or newline": ({"byte_fallback": False, "user_defined_symbols": []}, False),
    "pieces over spaces": ({"split_by_whitespace": False}, False),
    "a symbol over a space": ({"user_defined_symbols": ["\n", "to▁be"]}, False),
    "a line's end with its indentation": ({"user_defined_symbols": ["\n", "\n▁▁"]}, False),
    "spaces behind words": ({"treat_whitespace_as_suffix": True}, False),
    "normalised": ({"normalization_rule_name": "nmt_nfkc"}, False),
    "sentencepiece's defaults": (
        {
            "normalization_rule_name": "nmt_nfkc",
            "remove_extra_whitespaces": True,
            "add_dummy_prefix": True,
            "byte_fallback": False,
            "user_defined_symbols": [],
        },
        False,
    ),
    "unigram": ({"model_type": "unigram"}, False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_sentencepiece_on_the_whole_text(kind: str) -> None:
    changes, by_word = KINDS[kind]
    texts = [text[:5000] for text in corpus("drama", 8)] + corpus("verse", 40)
    content = train(texts, **({"vocab_size": 1000, "character_coverage": 0.98} | changes))
    model = SentencePieceModel(content)
    whole = sentencepiece.SentencePieceProcessor(model_proto=content)
    assert model._by_word == by_word
    for text in (*texts, "", " ", "\n", " \n ", "a", "  to be\n\n\n  or\n", "to be to be" * 50, "é é\né"):
        assert model.encode(text).tolist() == whole.encode(text)
        assert model.decode(whole.encode(text)) == whole.decode(whole.encode(text))
    assert bool(model._words) == by_word

    @settings(max_examples=100, deadline=None)
    @given(text=SPACED_TEXT)
    def check(text: str) -> None:
        # With and without many spaces: two ways to the ids.
        for each in (text, text + " " * len(text)):
            assert model.encode(each).tolist() == whole.encode(each)

    check()


def test_memory_of_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = corpus("drama", 12)
    content = train(texts, vocab_size=800)
    plain, bounded = SentencePieceModel(content), SentencePieceModel(content)
    before = [plain.encode(text).tolist() for text in texts]
    monkeypatch.setattr(tokenizer_spm, "_MEMORY_CHARACTERS", 64 * 500)
    sizes = []
    for text, ids in zip(texts, before, strict=True):
        assert bounded.encode(text).tolist() == ids
        sizes.append(len(bounded._words))
    assert max(sizes) <= 500 < len(plain._words)


def test_a_long_text_gives_the_same_ids(tokenizer: Tokenizer, home: Path) -> None:
    text = "\n\n".join(corpus("drama", 300))
    assert len(list(text_blocks(text))) > 1
    whole = sentencepiece.SentencePieceProcessor(model_file=str(home / MODEL_FILE))
    assert tokenizer.encode(text) == whole.encode(text)


@settings(max_examples=300)
@given(text=st.text(st.sampled_from("ab \n▁")), size=st.integers(1, 9))
def test_blocks_are_the_text_cut_between_words(text: str, size: int) -> None:
    blocks = list(text_blocks(text, size))
    assert "".join(blocks) == text
    assert all(size <= len(block) <= 2 * size for block in blocks[:-1]) and len(blocks[-1]) <= 2 * size
    for before, after in pairwise(blocks):
        between_words = after[0] == "\n" != before[-1] or (after[0] == " " and before[-1] not in " ▁")
        nowhere_else = len(before) == size
        assert between_words or nowhere_else


def test_found_from_the_dataset_and_from_its_splits(home: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (home.parent / "train").mkdir()
    for folder in (home.parent, home.parent / "train"):
        assert Tokenizer.load(folder).hash == tokenizer.hash
    with pytest.raises(UserError, match="no tokenizer there"):
        Tokenizer.load(tmp_path)


def test_unknown_kind_newer_version_and_damage(home: Path, tmp_path: Path) -> None:
    info = json.loads((home / INFO_FILE).read_text())
    model = (home / MODEL_FILE).read_bytes()
    (tmp_path / MODEL_FILE).write_bytes(model)
    for change, message in (
        ({"kind": "novel"}, "kind 'novel' is unknown"),
        ({"format_version": 9}, "version 9 is newer"),
    ):
        (tmp_path / INFO_FILE).write_text(json.dumps(sealed({**info, **change})))
        with pytest.raises(UserError, match=message):
            Tokenizer.load(tmp_path)
    for broken in ("{", "[]", json.dumps({**info, "bos_id": 3}), json.dumps(sealed({**info, "a": 1}))):
        (tmp_path / INFO_FILE).write_text(broken)
        with pytest.raises(FailedWork, match=rf"{INFO_FILE}: damaged"):
            Tokenizer.load(tmp_path)
    (tmp_path / INFO_FILE).write_text(json.dumps(info))
    (tmp_path / MODEL_FILE).write_bytes(model[:100] + bytes([model[100] ^ 1]) + model[101:])
    with pytest.raises(FailedWork, match="damaged"):
        Tokenizer.load(tmp_path)
    (tmp_path / MODEL_FILE).unlink()
    with pytest.raises(FailedWork, match=r"cannot be read: No such file"):
        Tokenizer.load(tmp_path)


def test_what_is_no_model_is_said_to_be_none() -> None:
    for content in (b"", b"hello", b"{}"):
        with pytest.raises(ValueError, match="not a sentencepiece model"):
            load_model("sentencepiece", content)


def test_the_padded_size_is_a_multiple(home: Path, tmp_path: Path) -> None:
    model = (home / MODEL_FILE).read_bytes()
    sizes = [describe("sentencepiece", model, vocab_multiple=n).padded_vocab_size for n in (1, 10, 64, 341)]
    assert sizes == [340, 340, 384, 341]
    info = describe("sentencepiece", model, vocab_multiple=128)
    assert save_tokenizer(tmp_path, model, info) == read_info(tmp_path) == info
    assert info.padded_vocab_size == 384
    # Descriptions of before the field are read.
    tree = json.loads((tmp_path / INFO_FILE).read_text())
    for name in ("padded_vocab_size", OWN_HASH):
        del tree[name]
    tree["format_version"] = 1
    (tmp_path / INFO_FILE).write_text(json.dumps(tree))
    assert read_info(tmp_path) == TokenizerInfo("sentencepiece", info.hash, 340, 2, 1, None)


def test_half_a_surrogate_pair_is_refused(tokenizer: Tokenizer) -> None:
    for text in ("to\ud800be", "to be \udcff or"):
        with pytest.raises(UserError, match="half of a surrogate pair"):
            tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode("to be or")) == "to be or"


def test_a_model_without_eos_is_refused() -> None:
    with pytest.raises(UserError, match="no end-of-sentence id"):
        describe("sentencepiece", train(TEXTS, eos_id=-1))
