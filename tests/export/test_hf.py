"""A checkpoint exported is the same model in transformers; what cannot be exported leaves nothing behind."""

import hashlib
import json
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from megatrain.checkpoint.manifest import read_manifest, write_manifest
from megatrain.checkpoint.place import LocalPlace
from megatrain.errors import FailedWork, UserError
from megatrain.export import hf
from megatrain.export.folder import new_folder
from megatrain.export.load import load_exported, load_model
from megatrain.export.verify import verify_logits
from megatrain.export.weights import INDEX, SINGLE, plan_files
from tests.export.conftest import Run, make_run, real_texts, write_checkpoint

LLAMA3 = {"theta": 500.0, "llama3": {"factor": 4.0, "original_sequence_length": 32}}


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "changes",
    [{}, {"tied_embeddings": True}, {"rope": LLAMA3, "kv_heads": 1}, {"kv_heads": 4, "norm_eps": 1e-3}],
)
def test_the_export_computes_what_the_model_computes(
    changes: dict[str, object], tmp_path: Path, tokenizer_folder: Path
) -> None:
    run = make_run(tmp_path / "run", tokenizer_folder, **changes)
    result = run.export(tmp_path / "hf", dtype="fp32", texts=real_texts(2))
    assert result.verified is not None
    assert result.verified.max_difference < 1e-5 and result.verified.top1_agreement == 1
    assert result.verified.positions > 3 * 96 and result.tokenizer_texts > 500 and result.files == 1

    native, theirs = load_model(run.checkpoint), AutoModelForCausalLM.from_pretrained(result.folder)
    back = load_exported(result.folder)
    assert sum(p.numel() for p in theirs.parameters()) == result.parameters
    ids = torch.arange(40)[None] * 37 % run.model.vocab_size
    with torch.no_grad():
        logits = native.logits(ids, torch.arange(40)[None])
        assert (theirs(ids).logits - logits).abs().max() < 1e-5
        assert torch.equal(back.logits(ids, torch.arange(40)[None]), logits)
    assert back.config == run.model
    with safe_open(result.folder / SINGLE, framework="pt") as file:
        assert ("lm_head.weight" in list(file.keys())) != run.model.tied_embeddings


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_sharded_export_in_half_precision(dtype: str, run: Run, tmp_path: Path) -> None:
    result = run.export(tmp_path / "hf", dtype=dtype, shard_gib=20_000 / 2**30)
    assert result.files > 3 and not (result.folder / SINGLE).exists()
    index = json.loads((result.folder / INDEX).read_text())
    sizes = []
    for name in set(index["weight_map"].values()):
        with safe_open(result.folder / name, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in list(file.keys())}
        assert all(index["weight_map"][key] == name for key in tensors)
        sizes.append(sum(t.numel() * 2 for t in tensors.values()))
        assert sizes[-1] <= 20_000 or len(tensors) == 1
    assert index["metadata"] == {"total_parameters": result.parameters, "total_size": result.weight_bytes}
    assert sum(sizes) == result.weight_bytes
    theirs = AutoModelForCausalLM.from_pretrained(result.folder)
    assert theirs.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    exact = load_model(run.checkpoint)
    assert torch.equal(theirs.model.norm.weight, exact.norm.weight.to(theirs.dtype))
    assert result.verified is not None and result.verified.max_difference < 1e-5  # rounding is not counted


def test_the_folder_is_whole(exported: Path, run: Run) -> None:
    names = {path.name for path in exported.iterdir()}
    wanted = (
        "config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json README.md"
    )
    assert set(wanted.split()) | {"special_tokens_map.json", "tokenizer.model", "SHA256SUMS"} <= names
    for line in (exported / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((exported / name).read_bytes()).hexdigest() == digest
        names.discard(name)
    assert names == {"SHA256SUMS"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in exported.iterdir()} == {0o644}

    config = json.loads((exported / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10000.0
    assert config["dtype"] == config["torch_dtype"] == "float32"
    assert config["head_dim"] == 12 and config["max_position_embeddings"] == 96
    card = (exported / "README.md").read_text(encoding="utf-8")
    for fact in (
        "# tiny",
        "| steps | 20 |",
        "123,456",
        "2.5000",
        "f" * 32,
        "name: tiny",
        "Logits were compared",
    ):
        assert fact in card


def test_transformers_generates_from_it(exported: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(exported)
    model = AutoModelForCausalLM.from_pretrained(exported)
    ids = tokenizer("To be, or", return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=5, do_sample=False)
    assert out.shape[1] <= ids["input_ids"].shape[1] + 5


def test_the_same_checkpoint_gives_the_same_bytes_and_replaces_itself(run: Run, tmp_path: Path) -> None:
    first = everything(run.export(tmp_path / "hf").folder)
    again = everything(run.export(tmp_path / "hf").folder)
    assert first == again
    other = everything(run.export(tmp_path / "hf", dtype="fp32", verify="tokenizer").folder)
    assert other[SINGLE] != first[SINGLE]
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize("content", [{"notes.txt": "mine"}, {"config.json": "{}", "model.safetensors": "x"}])
def test_a_folder_that_is_not_ours_is_left_alone(
    content: dict[str, str], run: Run, tmp_path: Path, exported: Path
) -> None:
    out = tmp_path / "hf"
    out.mkdir()
    for name, text in content.items():
        (out / name).write_text(text)
    with pytest.raises(UserError, match="not an export of megatrain"):
        run.export(out)
    assert {path.name: path.read_text() for path in out.iterdir()} == content
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_an_export_with_something_added_is_left_alone(run: Run, tmp_path: Path) -> None:
    out = run.export(tmp_path / "hf").folder
    (out / "model.gguf").write_text("made from it")
    before = everything(out)
    with pytest.raises(UserError, match=r"model\.gguf"):
        run.export(out)
    assert everything(out) == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        run.export(tmp_path / "file")


def test_an_interrupted_export_leaves_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "hf"
    with monkeypatch.context() as patch:
        patch.setattr(hf, "verify_logits", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.export(out)
        assert list(tmp_path.iterdir()) == []
    before = everything(run.export(out).folder)
    with monkeypatch.context() as patch:  # an earlier export stays whole
        patch.setattr(hf, "write_weights", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.export(out, dtype="fp32")
    assert everything(out) == before and list(tmp_path.iterdir()) == [out]

    # A kill leaves the temporary folder, or the earlier export under another name: the next one mends it.
    (tmp_path / ".hf.partial").mkdir()
    (tmp_path / ".hf.partial" / "model.safetensors").write_text("half")
    out.rename(tmp_path / ".hf.replaced")
    with new_folder(out) as partial:
        assert list(partial.iterdir()) == [] and everything(out) == before
        with pytest.raises(UserError, match="another process"):
            run.export(out)
        (partial / "only").write_text("this")
    assert sorted(everything(out)) == ["SHA256SUMS", "only"] and list(tmp_path.iterdir()) == [out]


def test_values_that_are_not_finite_are_refused(tmp_path: Path, run: Run) -> None:
    def spoil(value: float) -> Run:
        spoilt = Run(tmp_path / str(value), run.model, run.tokenizer_folder)

        def put(name: str, tensor: torch.Tensor) -> None:
            if name == "layers.1.mlp.up.weight":
                tensor[-1, -1] = value

        write_checkpoint(spoilt.checkpoint, run.model, run.tokenizer_hash, put)
        return spoilt

    out = tmp_path / "hf"
    for value in (float("nan"), float("inf")):
        with pytest.raises(FailedWork, match=r"layers\.1\.mlp\.up\.weight has values that are not finite"):
            spoil(value).export(out)
    large = spoil(1e6)
    with pytest.raises(FailedWork, match=r"too large for torch\.float16"):
        large.export(out, dtype="fp16")
    assert not out.exists() and large.export(out, dtype="bf16", verify="tokenizer").files == 1


def test_a_damaged_checkpoint_and_a_foreign_tokenizer_are_refused(
    tmp_path: Path, tokenizer_folder: Path, run: Run
) -> None:
    broken = make_run(tmp_path / "run", tokenizer_folder)
    path = broken.checkpoint / "attempt-00001-rank-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(FailedWork, match=r"rank-00001\.safetensors: hash"):
        broken.export(tmp_path / "hf")
    other = write_checkpoint(tmp_path / "step-00000001", run.model, "0" * 32)
    with pytest.raises(UserError, match="does not belong"):
        hf.export_hf(other, tokenizer_folder, tmp_path / "hf", run=run.facts)
    assert not (tmp_path / "hf").exists()


def test_a_checkpoint_with_other_tensors_than_its_model_is_refused(tmp_path: Path, run: Run) -> None:
    deeper = run.model.model_copy(update={"layers": 3})
    folder = write_checkpoint(tmp_path / "step-00000001", run.model, run.tokenizer_hash)
    place = LocalPlace(folder.parent)
    manifest = replace(read_manifest(place, folder.name), model=deeper.model_dump(mode="json"))
    write_manifest(place, folder.name, manifest)
    with pytest.raises(FailedWork, match=r"lacks the tensor layers\.2\."):
        load_model(folder)


def test_a_wrong_conversion_is_noticed(exported: Path, run: Run, tmp_path: Path) -> None:
    """Heads of the queries permuted, as for another convention of RoPE: every name and shape is right."""
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with safe_open(exported / SINGLE, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in list(file.keys())}
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = tensors[name].view(4, 2, 6, 32).transpose(1, 2).reshape(48, 32).contiguous()
    save_file(tensors, tmp_path / SINGLE, {"format": "pt"})
    with pytest.raises(FailedWork, match="logits differ"):
        verify_logits(run.checkpoint, tmp_path)
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / SINGLE, {"format": "pt"})
    with pytest.raises(FailedWork, match=r"missing_keys: model\.norm\.weight"):
        verify_logits(run.checkpoint, tmp_path)
    with pytest.raises(FailedWork, match=r"lacks the tensor model\.norm\.weight"):
        load_exported(tmp_path)


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_that_transformers_saved_is_read(tied: bool, tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 123.0},
    )
    theirs = LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    ids = torch.arange(40)[None]
    with torch.no_grad():
        ours = load_exported(tmp_path).logits(ids, torch.arange(40)[None])
        assert (ours - theirs(ids).logits).abs().max() < 1e-5


def test_files_are_planned_by_size() -> None:
    shapes = {"a": (10,), "b": (10,), "c": (50,), "d": (1,)}
    names = [file.tensors for file in plan_files(shapes, torch.float32, 80)]
    assert names == [("a", "b"), ("c",), ("d",)]
    assert [file.name for file in plan_files(shapes, torch.float32, 1000)] == [SINGLE]
    assert plan_files(shapes, torch.float32, 80)[0].name == "model-00001-of-00003.safetensors"


def test_without_the_extra_the_error_names_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install -c constraints.txt -e '.\[export\]'"):
        run.export(tmp_path / "hf")
    assert list(tmp_path.iterdir()) == []
