"""The tokenizer as Hugging Face files that encode the same ids: made from sentencepiece BPE, or copied."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from megatrain.data.tokenizer import (
    HF_COMPANIONS,
    HF_CONFIG,
    HF_ORIGINAL,
    INFO_FILE,
    MODEL_FILE,
    MODEL_FILES,
    Tokenizer,
    find_tokenizer,
    model_path,
)
from megatrain.data.tokenizer_spm import BPE, CONTROL, NORMAL, SPACE, UNKNOWN, USER_DEFINED, parse_model
from megatrain.durable import replacing
from megatrain.errors import require
from megatrain.export import extra

SPECIAL_TOKENS = "special_tokens_map.json"
_TEMPLATES = {"TemplateProcessing", "BertProcessing", "RobertaProcessing"}


def write_tokenizer(tokenizer_folder: Path, out: Path, *, max_length: int, starts: bool = True) -> None:
    """Write tokenizer.json and its companions into `out`, with the files that `Tokenizer.load` reads.

    starts: whether EOS was trained as the token before a document; then it is BOS too, else there is none.
    Raises UserError for a sentencepiece model that is not BPE.
    """
    home = find_tokenizer(tokenizer_folder)
    require(home is not None, f"{tokenizer_folder}: no tokenizer there")
    assert home is not None
    if Tokenizer.load(home).info.kind == "hf":
        _copy(home, out, max_length, starts)
    else:
        _convert(home, out, max_length, starts)


def _copy(home: Path, out: Path, max_length: int, starts: bool) -> None:
    """Write the files of a Hugging Face tokenizer as they were imported, but for what transformers would run,
    and for tokens put around each text: no training document had them."""
    for name in (INFO_FILE, *HF_COMPANIONS):
        if (home / name).is_file():
            shutil.copyfile(home / name, out / name)
    model = model_path(home, "hf").read_bytes()
    plain = _without_template(model)
    (out / MODEL_FILES["hf"]).write_bytes(plain)
    if plain != model:
        (out / HF_ORIGINAL).write_bytes(model)
    tokenizer, path = Tokenizer.load(home), out / HF_CONFIG
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    # Code from elsewhere, and classes that build another tokenizer than the one in tokenizer.json.
    config.pop("auto_map", None)
    # Nobody could write EOS at the end of a text, nor train it: what a text may spell is the caller's choice.
    config.pop("split_special_tokens", None)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config |= {"model_max_length": max_length, "add_bos_token": False, "add_eos_token": False}
    eos = tokenizer.piece(tokenizer.eos_id)
    write_json(path, _with_ends(config, eos, starts))
    if (tokens := out / SPECIAL_TOKENS).is_file():
        write_json(tokens, _with_ends(json.loads(tokens.read_text(encoding="utf-8")), eos, starts))


def _without_template(model: bytes) -> bytes:
    """Return a tokenizer.json that adds no tokens to a text; the same bytes where it adds none."""
    tokenizer = extra.tokenizers().Tokenizer.from_str(model.decode())
    tokenizer.no_padding()
    if not tokenizer.encode("").ids:
        return model
    tree = json.loads(model)
    processor = tree["post_processor"]
    steps = processor["processors"] if processor["type"] == "Sequence" else [processor]
    rest = [step for step in steps if step["type"] not in _TEMPLATES]
    tree["post_processor"] = {"type": "Sequence", "processors": rest} if rest else None
    return json.dumps(tree, ensure_ascii=False, indent=2).encode()


def _with_ends(tree: dict[str, Any], eos: str, starts: bool) -> dict[str, Any]:
    """Name EOS as both ends of a document, or, where it was not trained as the first, no BOS at all: that of
    the tokenizer's authors stood before no training document."""
    rest = {name: value for name, value in tree.items() if name != "bos_token"}
    return rest | {"eos_token": eos} | ({"bos_token": eos} if starts else {})


def _convert(home: Path, out: Path, max_length: int, starts: bool) -> None:
    """A sentencepiece model as Hugging Face's files, and itself beside them.

    transformers' own conversion is not used: it drops leading spaces and the model file that others read.
    """
    proto = _parse_bpe(home / MODEL_FILE)
    for name in (MODEL_FILE, INFO_FILE):
        shutil.copyfile(home / name, out / name)
    write_text(out / "tokenizer.json", fast_tokenizer(proto).to_str(pretty=True))
    special = _special_tokens(proto, starts)
    write_json(out / HF_CONFIG, _config(proto, max_length, special))
    write_json(out / SPECIAL_TOKENS, special)


def _parse_bpe(path: Path) -> Any:
    """The sentencepiece model's own description. Raises UserError where it is not a BPE model."""
    proto = parse_model(path.read_bytes())
    kind = proto.trainer_spec.ModelType.Name(proto.trainer_spec.model_type)
    require(
        proto.trainer_spec.model_type == BPE,
        f"{path}: a sentencepiece model of type {kind}; only BPE can be exported, because Hugging Face's "
        f"{kind} does not encode alike",
    )
    return proto


def fast_tokenizer(proto: Any) -> Any:
    """The model as a `tokenizers.Tokenizer`."""
    t = extra.tokenizers()
    pieces = list(proto.pieces)
    out = t.Tokenizer(
        t.models.BPE(
            vocab={piece.piece: id_ for id_, piece in enumerate(pieces)},
            merges=_merges(pieces),
            unk_token=proto.trainer_spec.unk_piece,
            fuse_unk=True,
            byte_fallback=proto.trainer_spec.byte_fallback,
        )
    )
    out.normalizer = t.normalizers.Sequence(_normalizers(t, proto.normalizer_spec))
    decoders = [t.decoders.Replace(SPACE, " "), t.decoders.ByteFallback(), t.decoders.Fuse()]
    if proto.normalizer_spec.add_dummy_prefix:
        out.pre_tokenizer = t.pre_tokenizers.Sequence(_prefix(t))
        decoders.append(t.decoders.Strip(" ", 1, 0))
    out.decoder = t.decoders.Sequence(decoders)
    for id_, piece in _added(proto).items():
        token = t.AddedToken(piece.piece, normalized=_normalized(piece), special=piece.type != USER_DEFINED)
        _ = out.add_special_tokens([token]) if token.special else out.add_tokens([token])
        assert out.token_to_id(piece.piece) == id_, piece.piece
    return out


def write_json(path: Path, tree: dict[str, Any]) -> None:
    write_text(path, json.dumps(tree, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def _merges(pieces: list[Any]) -> list[tuple[str, str]]:
    """Every way in which two normal pieces make a third, the best third first; of one piece, as listed."""
    ids = {piece.piece: id_ for id_, piece in enumerate(pieces) if piece.type == NORMAL}
    found = []
    for whole, id_ in ids.items():
        for cut in range(1, len(whole)):
            left, right = whole[:cut], whole[cut:]
            if left in ids and right in ids:
                found.append((-pieces[id_].score, id_, cut, left, right))
    return [(left, right) for _, _, _, left, right in sorted(found)]


def _normalizers(t: Any, spec: Any) -> list[Any]:
    n, out = t.normalizers, []
    if spec.precompiled_charsmap:
        out.append(n.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        out += [n.Replace(t.Regex("^ +| +$"), ""), n.Replace(t.Regex(" {2,}"), " ")]
    return [*out, n.Replace(" ", SPACE)]


def _prefix(t: Any) -> list[Any]:
    """Put the space before a text, and only there.

    Not by a normalizer: that would rewrite the tokens that a user adds, too, and then find them nowhere but
    behind a space. And not by one Metaspace, which adds nothing to a text that begins with a space: here all
    spaces are written as SPACE by now, so the first one always adds.
    """
    metaspace = t.pre_tokenizers.Metaspace
    return [metaspace(" ", "first", split=False), metaspace(SPACE, "never", split=False)]


def _added(proto: Any) -> dict[int, Any]:
    """The pieces that are cut out of the text before it is merged.

    A user-defined piece of one character is none of them: no merge takes it, so it stays by itself.
    """
    return {
        id_: piece
        for id_, piece in enumerate(proto.pieces)
        if piece.type in (UNKNOWN, CONTROL) or (piece.type == USER_DEFINED and len(piece.piece) > 1)
    }


def _normalized(piece: Any) -> bool:
    """Whether a piece is looked for only after spaces are written as pieces write them."""
    return SPACE in piece.piece


def _special_tokens(proto: Any, starts: bool) -> dict[str, str]:
    spec = proto.trainer_spec
    named = {"eos": spec.eos_id, "unk": spec.unk_id, "pad": spec.pad_id}
    tokens = {f"{name}_token": proto.pieces[id_].piece for name, id_ in named.items() if id_ >= 0}
    return _with_ends(tokens, tokens["eos_token"], starts)


def _config(proto: Any, max_length: int, special: dict[str, str]) -> dict[str, Any]:
    flags = {"lstrip": False, "rstrip": False, "single_word": False}
    return {
        # The one class that transformers 4 and 5 both take as it stands in tokenizer.json.
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        # Nothing is put before a text unasked, as in training.
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": proto.normalizer_spec.add_dummy_prefix,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "added_tokens_decoder": {
            str(id_): {
                "content": piece.piece,
                "normalized": _normalized(piece),
                "special": piece.type != USER_DEFINED,
                **flags,
            }
            for id_, piece in _added(proto).items()
        },
    }
