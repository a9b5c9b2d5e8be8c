"""The tokenizer loses nothing and knows how many bytes each id stands for."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.config import TokenizerTraining
from data_tools.train_tokenizer import train_tokenizer
from megatrain.data.tokenizer import INFO_FILE, MODEL_FILE, Tokenizer, save_tokenizer
from megatrain.errors import FailedWork, UserError

TEXTS = [
    "To be, or not to be:  that is the question.\n\n\tHAMLET.\nWhether 'tis nobler in 1601\n",
    "白日依山盡，\n黃河入海流。\n",
] * 20
SETTINGS = TokenizerTraining(vocab_size=340)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "data" / "tokenizer"
    save_tokenizer(folder, train_tokenizer(TEXTS, SETTINGS))
    return folder


@pytest.fixture(scope="module")
def tokenizer(home: Path) -> Tokenizer:
    return Tokenizer.load(home)


ANY_TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="▁") | st.sampled_from("\n\t 1a。")
)


@settings(max_examples=200, deadline=None)
@given(text=ANY_TEXT)
def test_round_trip_and_bytes(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert int(tokenizer.byte_lengths()[ids].sum()) == len(text.encode())
    # By lines, as we encode, and whole, as other software will.
    assert ids == tokenizer._processor.encode(text)
    assert tokenizer.encode_batch([text, text]) == [ids, ids]


def test_what_the_training_promises(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.piece(id_) for id_ in range(tokenizer.vocab_size)]
    assert tokenizer.vocab_size == len(pieces) == 340
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert [piece for piece in pieces if "\n" in piece] == ["\n"]
    assert not [
        piece for piece in pieces if len(piece) > 1 and any(c.isdigit() for c in piece) and piece[0] != "<"
    ]
    lengths = tokenizer.byte_lengths()
    assert lengths[[0, 1, 2]].tolist() == [0, 0, 0] and (lengths[3:] > 0).all()
    assert (
        lengths.dtype == np.int32 and lengths[pieces.index("▁")] == 1 and lengths[pieces.index("<0xE9>")] == 1
    )
    assert tokenizer.encode("") == [] and tokenizer.decode([1, 2]) == ""


def test_training_gives_the_same_bytes_and_drops_no_long_line(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert train_tokenizer(TEXTS, SETTINGS) == tokenizer._processor.serialized_model_proto()
    one_line = "".join(np.random.default_rng(0).choice(list("abcdefgh"), 50_000))
    # Were the line dropped, there would be no text to train on.
    save_tokenizer(tmp_path, train_tokenizer([one_line], TokenizerTraining(vocab_size=300)))
    assert len(Tokenizer.load(tmp_path).encode(one_line)) < len(one_line) / 1.5


def test_a_vocabulary_that_does_not_fit_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"tokenizer.vocab_size \(4000\): too large for the text; at most \d+$"
    ):
        train_tokenizer(TEXTS, TokenizerTraining(vocab_size=4000))
    many = ["".join(map(chr, range(0x4E00, 0x4F00)))]
    with pytest.raises(UserError, match=r"tokenizer.vocab_size \(301\).*lower tokenizer.character_coverage"):
        train_tokenizer(many, TokenizerTraining(vocab_size=301, character_coverage=1.0))


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
        (tmp_path / INFO_FILE).write_text(json.dumps({**info, **change}))
        with pytest.raises(UserError, match=message):
            Tokenizer.load(tmp_path)
    (tmp_path / INFO_FILE).write_text(json.dumps(info))
    (tmp_path / MODEL_FILE).write_bytes(model[:100] + bytes([model[100] ^ 1]) + model[101:])
    with pytest.raises(FailedWork, match="damaged"):
        Tokenizer.load(tmp_path)
