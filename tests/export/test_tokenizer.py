"""Exported tokenizer files encode and decode exactly as sentencepiece, or the export fails."""

import json
from pathlib import Path

import pytest
import tokenizers as library
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from megatrain.data.tokenizer import Tokenizer
from megatrain.errors import FailedWork, UserError
from megatrain.export.identity import HARD_TEXTS, verify_tokenizer
from megatrain.export.tokenizer import write_tokenizer
from tests.export.conftest import real_texts, train


def test_hard_random_and_real_texts_encode_alike(exported: Path, tokenizer: Tokenizer) -> None:
    texts = real_texts(12)
    same = verify_tokenizer(exported, tokenizer, texts=[*texts, *"".join(texts).splitlines(True)])
    assert same.texts > 1000 and same.tokens > 50_000


@pytest.mark.parametrize(
    "kind",
    [
        {"add_dummy_prefix": True, "user_defined_symbols": []},  # as Llama 2
        {"user_defined_symbols": ["\n", "<|im_start|>", "<|im_end|>"]},
        {"byte_fallback": False, "user_defined_symbols": []},
        {"split_digits": False, "vocab_size": 1800, "pad_id": 3},
    ],
)
def test_other_kinds_of_bpe_encode_alike(kind: dict[str, object], tmp_path: Path) -> None:
    home = train(tmp_path / "tokenizer", **kind)
    (tmp_path / "out").mkdir()
    write_tokenizer(home, tmp_path / "out", max_length=64)
    texts = [line for text in real_texts(10) for line in text.splitlines(True)]
    verify_tokenizer(tmp_path / "out", Tokenizer.load(home), texts=texts)


def test_any_text_encodes_and_decodes_alike(exported: Path, tokenizer: Tokenizer) -> None:
    theirs = AutoTokenizer.from_pretrained(exported)
    alphabet = st.one_of(st.characters(codec="utf-8"), st.sampled_from("  \n▁ae<s>0x床前"))

    @given(st.text(alphabet, max_size=60))
    @settings(max_examples=400, deadline=None)
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert theirs(text, split_special_tokens=True)["input_ids"] == ids
        assert theirs.decode(ids) == tokenizer.decode(ids)

    check()


def test_decoding_gives_the_text_back(exported: Path, tokenizer: Tokenizer) -> None:
    theirs = AutoTokenizer.from_pretrained(exported)
    for text in (*HARD_TEXTS, *real_texts(20)):
        if "\u2581" not in text:  # sentencepiece's own sign for a space comes back as a space
            ids = theirs(text, split_special_tokens=True)["input_ids"]
            assert theirs.decode(ids, skip_special_tokens=True) == text


def test_control_ids_are_special_and_nothing_is_added(exported: Path, tokenizer: Tokenizer) -> None:
    theirs = AutoTokenizer.from_pretrained(exported)
    assert theirs.bos_token_id == theirs.eos_token_id == tokenizer.eos_id
    assert theirs.decode([tokenizer.eos_id], skip_special_tokens=True) == ""
    assert theirs("</s>", split_special_tokens=True)["input_ids"] == tokenizer.encode("</s>")
    assert theirs("</s>")["input_ids"] == [tokenizer.eos_id]
    assert len(theirs) == tokenizer.vocab_size and theirs.model_max_length == 96


@pytest.mark.parametrize("kind", [{}, {"add_dummy_prefix": True, "user_defined_symbols": []}])
def test_eos_and_added_tokens_are_one_id_each_for_every_reader(
    kind: dict[str, object], tmp_path: Path
) -> None:
    """Also those that a user adds, after saving and loading, and for readers of tokenizer.json alone."""
    home = train(tmp_path / "tokenizer", control_symbols=["<|im_start|>"], **kind)
    (tmp_path / "out").mkdir()
    write_tokenizer(home, tmp_path / "out", max_length=64)
    tokenizer = Tokenizer.load(home)
    theirs, ids = AutoTokenizer.from_pretrained(tmp_path / "out"), tokenizer.encode("To be")
    theirs.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    theirs.add_tokens(["<tool>", "<a b>"])
    theirs.save_pretrained(tmp_path / "saved")
    for reader in (theirs, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        assert reader("To be" + reader.eos_token)["input_ids"] == [*ids, tokenizer.eos_id]
        for token in ("<|im_start|>", "<|turn|>", "<tool>", "<a b>"):
            id_ = reader.convert_tokens_to_ids(token)
            for text in (token, f"To{token}be", f"To {token} be", f"\n{token}\n"):
                found = reader(text)["input_ids"]
                assert found.count(id_) == 1 and reader.decode(found) == text, text
    raw = library.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert raw.encode("To be</s>").ids == [*ids, tokenizer.eos_id]


def test_a_setting_that_breaks_special_tokens_fails(
    exported: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "split_special_tokens": True}))
    with pytest.raises(FailedWork, match=r"EOS \(</s>\) is not one id"):
        verify_tokenizer(tmp_path, tokenizer, random_texts=1)


def test_the_sentencepiece_model_is_shipped(exported: Path, tokenizer: Tokenizer) -> None:
    assert Tokenizer.load(exported).hash == tokenizer.hash


def test_unigram_is_refused_by_name(tmp_path: Path) -> None:
    home = train(tmp_path / "tokenizer", model_type="unigram")
    with pytest.raises(UserError, match="UNIGRAM"):
        write_tokenizer(home, tmp_path, max_length=64)


def test_a_difference_fails_and_names_the_text(exported: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    tree = json.loads((exported / "tokenizer.json").read_text(encoding="utf-8"))
    tree["model"]["merges"] = tree["model"]["merges"][:-30]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(FailedWork, match="encodes"):
        verify_tokenizer(tmp_path, tokenizer)


def test_chat_tokens_and_symbols_of_spaces(tmp_path: Path) -> None:
    home = train(
        tmp_path / "tokenizer",
        control_symbols=["<|im_start|>", "<|im_end|>"],
        user_defined_symbols=["\n", "\n\n", "\t", "▁▁▁▁"],
    )
    (tmp_path / "out").mkdir()
    write_tokenizer(home, tmp_path / "out", max_length=64)
    tokenizer = Tokenizer.load(home)
    texts = [line for text in real_texts(10) for line in text.splitlines(True)]
    texts += ["def f():\n    return\n\n\n\n        1", "a     b\t\t c", "<|im_start|>user\nhello<|im_end|>"]
    verify_tokenizer(tmp_path / "out", tokenizer, texts=texts)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    start = tokenizer.special_tokens()["<|im_start|>"]
    assert theirs("<|im_start|>")["input_ids"] == [start]
    assert tokenizer.piece(tokenizer.encode("    ")[0]) == "▁▁▁▁"
