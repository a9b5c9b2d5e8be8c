"""A tokenizer that exists is taken over as it is, or refused in one line that says how to mend it."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers as library

from data_tools.tokenizer.existing import read_tokenizer
from data_tools.tokenizer.make import make_tokenizer
from data_tools.tokenizer.section import TokenizerTraining
from data_tools.tokenizer.train import train_tokenizer
from megatrain.data.tokenizer import HF_COMPANIONS, HF_CONFIG, MODEL_FILE, Tokenizer, read_info
from megatrain.errors import UserError
from tests.data.texts import corpus

TEXTS = [text[:4000] for text in corpus("drama", 6)] + corpus("verse", 20)
SPECIAL = ["<|endoftext|>", "<|begin|>", "<|im_end|>"]


@pytest.fixture(scope="module")
def spm() -> bytes:
    return train_tokenizer(TEXTS, TokenizerTraining(vocab_size=1500, special_tokens=("chat",)))


@pytest.fixture(scope="module")
def hf() -> str:
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    made.add_tokens(["<tool>"])
    return str(made.to_str())


def folder(path: Path, hf: str, **files: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "tokenizer.json").write_text(hf)
    for name, tree in files.items():
        (path / f"{name}.json").write_text(json.dumps(tree))
    return path


def refused(match: str, path: Path, **tokens: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        read_tokenizer(path, **tokens)
    assert "\n" not in str(caught.value)


def test_a_trained_one_lies_in_its_folder(tmp_path: Path, spm: bytes) -> None:
    section = TokenizerTraining(vocab_size=1500, special_tokens=("chat",), vocab_multiple=64)
    info = make_tokenizer(tmp_path, section, TEXTS)
    assert info == read_info(tmp_path) and (info.vocab_size, info.padded_vocab_size) == (1500, 1536)
    assert (tmp_path / MODEL_FILE).read_bytes() == spm


def test_a_sentencepiece_model_and_a_folder_of_ours(tmp_path: Path, spm: bytes) -> None:
    (tmp_path / "any name").write_bytes(spm)
    section = TokenizerTraining(model=str(tmp_path / "any name"), eos_token="<|im_end|>", vocab_multiple=300)
    info = make_tokenizer(tmp_path / "data" / "tokenizer", section, iter(()))
    assert (info.kind, info.eos_id, info.bos_id, info.padded_vocab_size) == ("sentencepiece", 4, 1, 1500)
    # Ours says itself what ends a document; the model alone says </s>.
    ours = read_tokenizer(tmp_path / "data" / "tokenizer")
    assert (ours.eos_id, ours.model) == (4, spm) and ours == read_tokenizer(tmp_path / "data")
    assert read_tokenizer(tmp_path / "any name").eos_id == 2
    assert ours.tokenizer().encode("to be") == Tokenizer.load(tmp_path / "data").encode("to be")


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"eos_token": SPECIAL[0], "bos_token": None}},
        {"special_tokens_map": {"eos_token": {"content": SPECIAL[0], "lstrip": False}}},
        {
            "special_tokens_map": {"eos_token": SPECIAL[2]},
            "tokenizer_config": {"eos_token": {"content": SPECIAL[0]}},
        },
    ],
)
def test_files_beside_a_tokenizer_json_name_eos(tmp_path: Path, hf: str, files: dict[str, Any]) -> None:
    found = read_tokenizer(folder(tmp_path, hf, **files))
    assert (found.kind, found.eos_id, found.bos_id) == ("hf", 0, -1)
    given = read_tokenizer(tmp_path / "tokenizer.json", eos_token=SPECIAL[2], bos_token=SPECIAL[1])
    assert (given.eos_id, given.bos_id) == (2, 1)


def test_a_hugging_face_folder_is_taken_over_whole(tmp_path: Path, hf: str) -> None:
    config = {"eos_token": SPECIAL[0], "bos_token": SPECIAL[1], "chat_template": "{{ x }}"}
    source = folder(tmp_path / "hub", hf, tokenizer_config=config)
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "code.py").write_text("raise SystemExit")
    info = make_tokenizer(tmp_path / "home", TokenizerTraining(model=str(source)), iter(()))
    assert (info.kind, info.eos_id, info.bos_id, info.vocab_size) == ("hf", 0, 1, 601)
    assert info.padded_vocab_size == 640
    names = {path.name for path in (tmp_path / "home").iterdir()}
    assert names == {"tokenizer.json", "tokenizer-info.json", HF_CONFIG, HF_COMPANIONS[2]}
    ours, theirs = Tokenizer.load(tmp_path / "home"), library.Tokenizer.from_str(hf)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text).ids
    # Taken over again from there, it is the same.
    again = make_tokenizer(tmp_path / "again", TokenizerTraining(model=str(tmp_path / "home")), iter(()))
    assert again == info


def test_tokenizer_json_goes_before_tokenizer_model(tmp_path: Path, hf: str, spm: bytes) -> None:
    folder(tmp_path, hf, tokenizer_config={"eos_token": SPECIAL[0]})
    (tmp_path / MODEL_FILE).write_bytes(spm)
    assert read_tokenizer(tmp_path).kind == "hf"
    assert read_tokenizer(tmp_path / MODEL_FILE).kind == "sentencepiece"


def test_what_cannot_be_used_is_refused(tmp_path: Path, hf: str, spm: bytes) -> None:
    refused("nowhere: cannot be read: No such file", tmp_path / "nowhere")
    refused(r"no folder with a tokenizer\.model or a tokenizer\.json", tmp_path)
    (tmp_path / "cut.model").write_bytes(spm[:1000])
    refused(r"cut\.model: not a sentencepiece model", tmp_path / "cut.model")
    (tmp_path / "empty").write_bytes(b"")
    refused(r"empty: not a sentencepiece model", tmp_path / "empty")
    (tmp_path / "cut.json").write_text(hf[:1000])
    refused(r"cut\.json: not a tokenizer\.json: Unterminated", tmp_path / "cut.json")
    (tmp_path / "spm.model").write_bytes(spm)
    refused(r"eos_token \('<none>'\): .*spm\.model has no such", tmp_path / "spm.model", eos_token="<none>")
    # A piece that texts hold would end documents in their midst.
    refused(r"'\\n' cannot end documents", tmp_path / "spm.model", eos_token="\n")
    hub = folder(tmp_path / "hub", hf)
    refused(r"does not say which token ends a document; name it in tokenizer\.eos_token.*<\|end", hub)
    refused(r"'<tool>' cannot end documents, a text may hold it; .*<\|endoftext", hub, eos_token="<tool>")
    folder(hub, hf, tokenizer_config={"eos_token": "<gone>"})
    refused(r"tokenizer_config\.json: eos_token \('<gone>'\): .* has no such token", hub)
    (hub / HF_CONFIG).write_text("{")
    refused(r"tokenizer_config\.json: not JSON", hub)
    (hub / HF_CONFIG).write_text("[]")
    refused(r"tokenizer_config\.json: not a mapping", hub)
