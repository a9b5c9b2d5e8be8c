"""A Hugging Face tokenizer.json encodes as its own library does, and loses nothing where it can."""

import json
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers as library
from hypothesis import given, settings
from hypothesis import strategies as st

from megatrain.data.text_blocks import text_blocks
from megatrain.data.tokenizer import Tokenizer, describe, load_model, save_tokenizer
from megatrain.data.tokenizer_hf import HuggingFaceModel
from megatrain.errors import FailedWork, UserError
from tests.data.texts import corpus

TEXTS = [text[:4000] for text in corpus("drama", 6)] + corpus("verse", 60)
SPECIAL = ["<|endoftext|>", "<|im_start|>"]
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"))


def byte_level() -> Any:
    """As GPT-2 and those after it."""
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=800,
        special_tokens=SPECIAL,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    return made


def byte_fallback() -> Any:
    """As Gemma: spaces as sentencepiece writes them, bytes for what has no piece."""
    made = library.Tokenizer(library.models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = library.normalizers.Replace(" ", "▁")
    made.pre_tokenizer = library.pre_tokenizers.Split("\n", "isolated")
    decoders = library.decoders
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokens = ["<unk>", *SPECIAL, *[f"<0x{byte:02X}>" for byte in range(256)]]
    trainer = library.trainers.BpeTrainer(
        vocab_size=900, special_tokens=tokens, limit_alphabet=300, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    tree = json.loads(made.to_str())
    tree["added_tokens"] = [token for token in tree["added_tokens"] if not token["content"].startswith("<0x")]
    return library.Tokenizer.from_str(json.dumps(tree))


KINDS = {"byte level": byte_level, "byte fallback": byte_fallback}


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]()


def test_ids_are_those_of_the_library(made: Any, tmp_path: Path) -> None:
    content = made.to_str().encode()
    made.encode_special_tokens = True
    eos = made.token_to_id("<|endoftext|>")
    save_tokenizer(tmp_path / "tokenizer", content, describe("hf", content, eos_id=eos))
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.eos_id, tokenizer.bos_id) == (eos, -1)
    assert tokenizer.vocab_size == made.get_vocab_size() and tokenizer.info.kind == "hf"
    lengths, contents = tokenizer.byte_lengths(), tokenizer.contents()
    specials = {name: made.token_to_id(name) for name in SPECIAL}
    assert specials.items() <= tokenizer.special_tokens().items()
    assert not lengths[list(specials.values())].any()

    @settings(max_examples=200, deadline=None)
    @given(text=ANY_TEXT)
    def check(text: str) -> None:
        for each in (text, f"to be<|endoftext|>{text}"):
            ids = tokenizer.encode(each)
            assert ids == made.encode(each, add_special_tokens=False).ids
            assert not set(ids) & set(specials.values())
            assert tokenizer.decode(ids) == each
            assert int(lengths[ids].sum()) == len(each.encode())
            assert b"".join(contents[id_] for id_ in ids) == each.encode()

    check()
    many = tokenizer.encode_many(TEXTS)
    expected = [[*made.encode(text).ids, eos] for text in TEXTS]
    assert many.tokens.tolist() == list(chain.from_iterable(expected))
    assert many.lengths.tolist() == list(map(len, expected))
    assert tokenizer.decode([eos, *tokenizer.encode("café"), eos]) == "café"


def test_byte_ids_are_parts_of_characters(made: Any) -> None:
    model = HuggingFaceModel(made.to_str().encode())
    parts = model.byte_ids()
    ids = model.encode("龘").tolist()
    assert len(ids) > 1 and parts[ids].all()
    assert not parts[model.encode("the King").tolist()].any()


def test_nothing_is_cut_padded_or_added(made: Any) -> None:
    plain = HuggingFaceModel(made.to_str().encode())
    copy = library.Tokenizer.from_str(made.to_str())
    copy.enable_truncation(4)
    copy.enable_padding(length=64)
    bos = copy.token_to_id(SPECIAL[1])
    copy.post_processor = library.processors.TemplateProcessing(
        single=f"{SPECIAL[1]} $A", special_tokens=[(SPECIAL[1], bos)]
    )
    assert copy.encode(TEXTS[0]).ids == [bos, *plain.encode(TEXTS[0]).tolist()[:3], *[0] * 60]
    changed = HuggingFaceModel(copy.to_str().encode())
    assert changed.encode(TEXTS[0]).tolist() == plain.encode(TEXTS[0]).tolist()
    assert len(changed.encode("to be")) < 10


def test_a_long_text_loses_nothing() -> None:
    made = byte_level()
    model = HuggingFaceModel(made.to_str().encode())
    text = "\n".join([*corpus("drama", 100), *corpus("verse", 1000)] * 2)
    assert len(list(text_blocks(text))) > 1
    ids = model.encode(text)
    assert model.decode(ids.tolist()) == text


def test_other_kinds_count_their_pieces() -> None:
    pieces = library.Tokenizer(library.models.WordPiece({"[UNK]": 0, "to": 1, "##day": 2}, unk_token="[UNK]"))
    pieces.pre_tokenizer = library.pre_tokenizers.Whitespace()
    pieces.decoder = library.decoders.WordPiece()
    assert HuggingFaceModel(pieces.to_str().encode()).contents() == [b"", b"to", b"day"]
    scored = [("<unk>", 0.0), ("▁to", -1.0), ("▁", -2.0)]
    unigram = library.Tokenizer(library.models.Unigram(scored, unk_id=0, byte_fallback=False))
    unigram.pre_tokenizer = library.pre_tokenizers.Metaspace()
    model = HuggingFaceModel(unigram.to_str().encode())
    assert model.contents() == [b"", b" to", b" "]
    assert model.encode("to to").tolist() == [1, 1]


def test_ids_with_holes_between(made: Any) -> None:
    tree = json.loads(made.to_str())
    tree["added_tokens"].append({**tree["added_tokens"][-1], "id": 2000, "content": "<far>"})
    tree["model"]["vocab"]["<far>"] = 2000
    model = HuggingFaceModel(json.dumps(tree).encode())
    assert model.vocab_size == 2001 and model.piece(1999) == "" and model.piece_id("<far>") == 2000
    assert len(model.contents()) == len(model.byte_ids()) == 2001 and not model.byte_ids()[1999]


def test_broken_files_are_one_line() -> None:
    whole = byte_level().to_str()
    tree = json.loads(whole)
    broken = [
        "",
        "{}",
        "[]",
        whole[:2000],
        json.dumps({**tree, "model": {"type": "novel"}}),
        json.dumps({**tree, "model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": []}),
        json.dumps({**tree, "model": {**tree["model"], "merges": [["a", "no such piece"]]}}),
    ]
    for text in broken:
        with pytest.raises(ValueError) as caught:
            load_model("hf", text.encode())
        assert "\n" not in str(caught.value) and str(caught.value)
    with pytest.raises(ValueError, match=r"not a tokenizer\.json"):
        load_model("hf", b"\xff\x00")
    with pytest.raises(ValueError, match=r"model.dropout \(0.1\) encodes at random"):
        load_model("hf", json.dumps({**tree, "model": {**tree["model"], "dropout": 0.1}}).encode())


def test_a_panic_of_the_library_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    panic = type("PanicException", (BaseException,), {})

    class Panicking:
        @staticmethod
        def from_str(text: str) -> None:
            raise panic("called `Option::unwrap()`\non a `None` value")

    monkeypatch.setattr(library, "Tokenizer", Panicking)
    with pytest.raises(ValueError, match=r"not a tokenizer\.json: called"):
        load_model("hf", b"{}")


def test_a_character_without_an_id_is_named() -> None:
    words = library.Tokenizer(library.models.Unigram([("a", -1.0)]))
    model = HuggingFaceModel(words.to_str().encode())
    assert model.encode("aa").tolist() == [0, 0]
    with pytest.raises(FailedWork, match="cannot encode 'ab'"):
        model.encode("ab")
    with pytest.raises(UserError, match="half of a surrogate pair"):
        model.encode("a\ud800")


def test_without_the_library_the_extra_is_named(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    content = made.to_str().encode()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"pip install .* '.\[data\]'"):
        load_model("hf", content)


def test_more_ids_than_uint16_holds() -> None:
    vocab = {"<e>": 0, "a": 1, "b": 70_000}
    words = library.Tokenizer(library.models.WordLevel(vocab, unk_token="a"))
    words.pre_tokenizer = library.pre_tokenizers.Whitespace()
    words.add_special_tokens(["<e>"])
    content = words.to_str().encode()
    many = Tokenizer(content, describe("hf", content, eos_id=0)).encode_many(["b a"])
    assert many.tokens.dtype == np.uint32 and many.tokens.tolist() == [70_000, 1, 0]
