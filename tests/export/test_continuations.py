"""A run, its checkpoint and its export go on from a prompt alike; what is none of them is refused."""

import json
import math
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatrain.checkpoint.manifest import write_manifest as write_checkpoint_manifest
from megatrain.checkpoint.place import LocalPlace
from megatrain.checkpoint.read import Checkpoint
from megatrain.cli import main
from megatrain.config import load_config, to_yaml
from megatrain.data.documents import Documents
from megatrain.data.manifest import Manifest, write_manifest
from megatrain.data.shard import write_shard
from megatrain.data.tokenizer import Tokenizer, save_tokenizer
from megatrain.errors import FailedWork, UserError
from megatrain.export.generate import continuations
from megatrain.export.load import load_exported, load_model
from megatrain.export.run import export_run
from megatrain.export.source import find_source, sample_texts
from megatrain.model.generate import generate
from tests.export.conftest import Run, make_run, real_texts, train, write_checkpoint

PROMPTS = ["To be, or", "床前明月光，"]


def test_run_checkpoint_and_export_say_the_same(run: Run, exported: Path) -> None:
    texts = continuations(run.folder, PROMPTS, max_new_tokens=20, seed=4)
    assert len(texts) == 2 and all(texts)
    assert continuations(run.checkpoint, PROMPTS, max_new_tokens=20, seed=4) == texts
    assert continuations(exported, PROMPTS, max_new_tokens=20, seed=4) == texts
    assert continuations(exported, PROMPTS[1:], max_new_tokens=20, seed=4) == texts[1:]
    assert continuations(exported, PROMPTS, max_new_tokens=20, seed=5) != texts


def test_greedy_text_is_the_argmax_loop(run: Run, tokenizer: Tokenizer) -> None:
    model, ids = load_model(run.checkpoint), tokenizer.encode(PROMPTS[0])
    prompt = len(ids)
    for at in range(8):
        with torch.no_grad():
            logits = model.logits(torch.tensor([ids]), torch.arange(prompt + at)[None])[0, -1]
        ids.append(int(logits[: tokenizer.vocab_size].argmax()))
        if ids[-1] == tokenizer.eos_id:
            break
    whole = PROMPTS[0] + continuations(run.folder, PROMPTS[:1], max_new_tokens=8, temperature=0)[0]
    assert whole == tokenizer.decode(ids)


def test_the_newest_whole_checkpoint_of_a_run_is_taken(tmp_path: Path, tokenizer_folder: Path) -> None:
    run = make_run(tmp_path / "run", tokenizer_folder)
    newer = write_checkpoint(run.folder / "checkpoints" / "step-00000030", run.model, run.tokenizer_hash)
    (run.folder / "checkpoints" / "step-00000040").mkdir()  # a save that was killed
    assert find_source(run.folder).folder == str(newer)
    (newer / "attempt-00001-rank-00000.safetensors").write_bytes(b"short")
    source = find_source(run.folder)
    assert source.folder == str(run.checkpoint) and source.facts.sequence_length == 96
    assert source.damaged[0].startswith("step-00000030: attempt-00001-rank-00000.safetensors")
    shutil.rmtree(run.checkpoint)
    with pytest.raises(FailedWork, match="no checkpoint is whole"):
        find_source(run.folder)


def test_a_tokenizer_of_another_run_is_refused(tmp_path: Path, run: Run) -> None:
    other = train(tmp_path / "other", vocab_size=1500)
    with pytest.raises(UserError, match="does not belong"):
        continuations(run.folder, PROMPTS, tokenizer_folder=other)
    with pytest.raises(UserError, match="no tokenizer there"):
        continuations(run.folder, PROMPTS, tokenizer_folder=tmp_path / "nowhere")


def test_a_checkpoint_out_of_its_run_needs_a_tokenizer_named(tmp_path: Path, run: Run) -> None:
    moved = Path(shutil.copytree(run.checkpoint, tmp_path / "a" / "b" / "step-00000020"))
    with pytest.raises(UserError, match=r"no config\.yaml"):
        continuations(moved, PROMPTS)
    texts = continuations(moved, PROMPTS, tokenizer_folder=run.tokenizer_folder, max_new_tokens=3)
    assert texts == continuations(run.folder, PROMPTS, max_new_tokens=3)
    with pytest.raises(UserError, match=r"config\.yaml is not beside it"):
        _ = find_source(moved, run.tokenizer_folder).facts


@pytest.mark.parametrize("made", [None, "empty", "checkpoints"])
def test_what_is_no_model_is_refused(made: str | None, tmp_path: Path) -> None:
    where = tmp_path / "x"
    if made is not None:
        (where / made).mkdir(parents=True)
    with pytest.raises(UserError, match=str(where)):
        continuations(where, PROMPTS)


def test_a_damaged_checkpoint_is_not_generated_from(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run falls back and says so; a checkpoint that is named does not."""
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    (whole,) = (folder / "checkpoints").glob("step-*")
    newer = whole.with_name("step-00009999")
    shutil.copytree(whole, newer)
    place, manifest = LocalPlace(newer.parent), Checkpoint(whole).manifest
    write_checkpoint_manifest(place, newer.name, replace(manifest, state=replace(manifest.state, step=9999)))
    file = next(newer.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    words = ["generate", str(folder), "--prompt", "ROMEO", "--max-new-tokens", "2"]
    assert main(words) == 0
    assert re.search(r"passed over step-00009999: .*hash differs", capsys.readouterr().err)
    assert main(["generate", str(newer), "--prompt", "ROMEO"]) == 1
    assert re.fullmatch(r".*step-00009999: damaged: .*hash differs.*\n", capsys.readouterr().err)


def test_weights_that_are_not_finite_are_work_that_failed(
    tmp_path: Path, tokenizer_folder: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not a loss of nan with exit code 0, nor torch's traceback."""
    run = make_run(tmp_path / "run", tokenizer_folder)
    shutil.rmtree(run.checkpoint)
    write_checkpoint(
        run.checkpoint, run.model, run.tokenizer_hash, lambda name, value: value.view(-1)[0].fill_(math.nan)
    )
    data = prepared(tmp_path / "data", tokenizer, (tokenizer_folder / "tokenizer.model").read_bytes())
    config = load_config(run.folder / "config.yaml", [f"data.sources=[{{path: {data}}}]"])
    (run.folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert main(["evaluate", str(run.folder), "--split", "validation"]) == 1
    assert re.fullmatch(r".*step-00000020: the loss .* not a finite number.*\n", capsys.readouterr().err)
    for words in (["generate", str(run.folder), "--prompt", "x"], ["export", str(run.folder)]):
        assert main(words) == 1
        assert re.fullmatch(
            r"megatrain: .*(not finite numbers|values that are not finite).*\n", capsys.readouterr().err
        )
    assert not (run.folder / "export").exists()
    (shard,) = data.glob("validation/*.arrow")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert main(["evaluate", str(run.folder), "--split", "validation"]) == 1
    assert re.fullmatch(r"megatrain: .*shard-00000\.arrow: shard damaged: .*\n", capsys.readouterr().err)


@pytest.mark.parametrize("documents", get_args(Documents))
def test_an_empty_prompt_begins_a_document_where_a_start_token_was_trained(
    documents: Documents, tokenizer_folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """And an export names that token, and no other, as BOS."""
    run = make_run(tmp_path / "run", tokenizer_folder, documents)
    out = run.export(tmp_path / "hf", dtype="fp32", verify="tokenizer").folder
    named = {
        *(
            json.loads((out / f"{name}.json").read_text())["bos_token_id"]
            for name in ("config", "generation_config")
        ),
        AutoTokenizer.from_pretrained(out).bos_token_id,
        AutoModelForCausalLM.from_pretrained(out).generation_config.bos_token_id,
    }
    if documents == "mask":
        assert named == {None}
        for where in (run.folder, run.checkpoint, out):
            with pytest.raises(UserError, match="the prompt is empty, and this model has no start token"):
                continuations(where, ["fine", ""])
        return
    assert named == {tokenizer.eos_id}
    options = {"max_new_tokens": 6, "temperature": 0, "eos_id": tokenizer.eos_id}
    new = generate(load_model(run.checkpoint), [tokenizer.eos_id], **options, vocab_size=tokenizer.vocab_size)
    for where in (run.folder, run.checkpoint, out):
        assert continuations(where, [""], max_new_tokens=6, temperature=0) == [tokenizer.decode(new)]


def test_a_prompt_longer_than_training_is_noted(
    run: Run, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for where in (str(run.folder), str(exported)):
        for length, new, said in (
            (97, 1, r"the prompt has 97 tokens"),
            (95, 2, r"prompt and text have 97 tok"),
        ):
            words = ["generate", where, "--prompt", "\n" * length, "--max-new-tokens", str(new)]
            assert main([*words, "--temperature", "0"]) == 0
            noted = capsys.readouterr().err
            assert re.fullmatch(rf"megatrain: {said}.* windows of 96; .*\n", noted)
    assert main(["generate", str(run.folder), "--prompt", "\n" * 90, "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().err == ""


def test_odd_prompts(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to write, special tokens spelled as text, and bytes that are not UTF-8."""
    for prompt in ("", "To be", "</s>", "<s></s>"):
        assert main(["generate", str(run.folder), "--prompt", prompt, "--max-new-tokens", "0"]) == 0
        assert capsys.readouterr().out == f"{prompt}\n\n"
    assert main(["generate", str(run.folder), "--prompt", "\udcff"]) == 2
    assert re.fullmatch(r"megatrain: [^\n]*\n", capsys.readouterr().err)


def prepared(folder: Path, tokenizer: Tokenizer, model: bytes) -> Path:
    """A dataset of real documents, with its tokenizer beside it."""
    split = folder / "validation"
    split.mkdir(parents=True)
    save_tokenizer(folder / "tokenizer", model)
    documents = [[*tokenizer.encode(text), tokenizer.eos_id] for text in real_texts(3)]
    tokens = np.concatenate([np.array(ids, np.uint16) for ids in documents])
    shard = write_shard(
        split / "shard-00000.arrow",
        source="prose",
        doc_ids=[bytes([number]) * 16 for number in range(len(documents))],
        lengths=np.array([len(ids) for ids in documents], np.int64),
        tokens=tokens,
        tokenizer_hash=tokenizer.hash,
        text_bytes=1,
    )
    write_manifest(split, Manifest("validation", "uint16", tokenizer.info, (shard,)))
    return folder


def test_a_run_is_exported_with_its_own_settings_and_data(
    tmp_path: Path, tokenizer_folder: Path, tokenizer: Tokenizer
) -> None:
    model = (tokenizer_folder / "tokenizer.model").read_bytes()
    data = prepared(tmp_path / "data", tokenizer, model)
    run = make_run(tmp_path / "run", tokenizer_folder)
    path = run.folder / "config.yaml"
    config = load_config(
        path, [f"data.sources=[{{path: {data}}}]", "tokenizer.folder=null", "export.dtype=fp32"]
    )
    path.write_text(to_yaml(config), encoding="utf-8")
    texts = sample_texts(config, tokenizer)
    assert len(texts) == 4 and texts[0][:40] == real_texts(1)[0][:40]

    source, result = (done := export_run(run.folder)).source, done.result
    assert result.folder == run.folder / "export" and source.tokenizer_folder == data
    assert result.verified is not None and result.verified.positions == 7 * 96  # three random rows, four real
    assert load_exported(result.folder).config == run.model
    assert path.read_text(encoding="utf-8").rstrip() in (result.folder / "README.md").read_text(
        encoding="utf-8"
    )
    with pytest.raises(UserError, match="is an export already"):
        export_run(result.folder)
    shutil.rmtree(data / "validation")  # the data are gone: the export goes on without them
    assert sample_texts(config, tokenizer) == []
    assert export_run(run.folder, dtype="bf16").result.weight_bytes == result.weight_bytes // 2


def test_generation_needs_no_extra(run: Run, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for where in (run.folder, exported):
        assert continuations(where, PROMPTS, max_new_tokens=2)
