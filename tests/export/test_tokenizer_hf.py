"""A model trained with a Hugging Face tokenizer is exported with the files it was imported with."""

import json
from pathlib import Path

import pytest
import tokenizers as library
from transformers import AutoTokenizer

from data_tools.tokenizer.existing import read_tokenizer
from data_tools.tokenizer.make import make_tokenizer
from data_tools.tokenizer.section import TokenizerTraining
from megatrain.data.tokenizer import Tokenizer, describe, save_tokenizer
from megatrain.errors import FailedWork
from megatrain.export.generate import continuations
from megatrain.export.identity import verify_tokenizer
from megatrain.export.tokenizer import write_tokenizer
from tests.export.conftest import make_run, real_texts

BOS, EOS = "<|begin|>", "<|end|>"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Byte-level BPE that adds BOS, with a config that names code of its own."""
    folder = tmp_path_factory.mktemp("imported")
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(
        vocab_size=900, special_tokens=[BOS, EOS], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(real_texts(10), trainer)
    made.post_processor = library.processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, made.token_to_id(BOS))]
    )
    (folder / "hub").mkdir()
    made.save(str(folder / "hub" / "tokenizer.json"))
    config = {
        "tokenizer_class": "NovelTokenizer",
        "auto_map": {"AutoTokenizer": ["code.NovelTokenizer", None]},
        "bos_token": BOS,
        "eos_token": {"content": EOS},
        "chat_template": "{{ messages }}",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
    }
    (folder / "hub" / "tokenizer_config.json").write_text(json.dumps(config))
    make_tokenizer(folder / "tokenizer", TokenizerTraining(model=str(folder / "hub")), ())
    return folder / "tokenizer"


def test_an_export_verifies_and_generates(home: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", home)
    result = run.export(tmp_path / "hf", dtype="fp32", texts=real_texts(2))
    assert result.tokenizer_texts > 500 and result.verified is not None
    config = json.loads((result.folder / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 1)
    assert Tokenizer.load(result.folder).hash == Tokenizer.load(home).hash
    texts = [continuations(where, ["To be"], max_new_tokens=5) for where in (run.folder, result.folder)]
    assert texts[0] == texts[1] != [""]


def test_transformers_adds_nothing_that_no_training_document_had(home: Path, tmp_path: Path) -> None:
    """And reads everything else as the tokenizer's authors meant it."""
    write_tokenizer(home, tmp_path, max_length=77)
    tokenizer, theirs = Tokenizer.load(home), AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer.encode("To be")
    assert theirs("To be")["input_ids"] == ids
    assert theirs(f"{BOS}To be{EOS}")["input_ids"] == [0, *ids, 1]
    assert (theirs.bos_token, theirs.eos_token, theirs.model_max_length) == (EOS, EOS, 77)
    assert theirs.chat_template == "{{ messages }}"
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert "auto_map" not in config
    # An earlier export as the tokenizer's folder: nothing else of it is copied.
    (tmp_path / "weights.safetensors").touch()
    (tmp_path / "again").mkdir()
    write_tokenizer(tmp_path, tmp_path / "again", max_length=77, starts=False)
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert (again.bos_token, again.eos_token) == (None, EOS)
    assert read_tokenizer(tmp_path / "again").model == (home / "tokenizer.json").read_bytes()
    assert Tokenizer.load(tmp_path / "again").hash == tokenizer.hash
    assert not (tmp_path / "again" / "weights.safetensors").exists()


@pytest.mark.parametrize("padded", [False, True])
def test_steps_that_add_no_tokens_stay(home: Path, tmp_path: Path, padded: bool) -> None:
    """For readers of tokenizer.json alone, too; and a file that adds nothing is copied byte for byte."""
    ours = library.Tokenizer.from_file(str(home / "tokenizer.json"))
    steps = [library.processors.ByteLevel(trim_offsets=False), ours.post_processor]
    if padded:
        ours.enable_padding(length=4)
        steps.pop()
    ours.post_processor = library.processors.Sequence(steps)
    model = ours.to_str().encode()
    (tmp_path / "out").mkdir()
    save_tokenizer(tmp_path / "in", model, describe("hf", model, eos_id=1))
    write_tokenizer(tmp_path / "in", tmp_path / "out", max_length=77)
    theirs = library.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    theirs.no_padding()
    assert theirs.encode("To be").ids == Tokenizer.load(home).encode("To be")
    assert "ByteLevel" in json.loads(theirs.to_str())["post_processor"]["processors"][0]["type"]
    assert ((tmp_path / "out" / "tokenizer.json").read_bytes() == model) == padded
    assert Tokenizer.load(tmp_path / "out").hash == Tokenizer.load(tmp_path / "in").hash


def test_a_difference_fails(home: Path, tmp_path: Path) -> None:
    write_tokenizer(home, tmp_path, max_length=77)
    tree = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    tree["model"]["merges"] = tree["model"]["merges"][:-300]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(FailedWork, match="encodes"):
        verify_tokenizer(tmp_path, Tokenizer.load(home))
