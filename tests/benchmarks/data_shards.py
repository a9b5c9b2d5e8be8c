"""What turning JSON lines into token shards costs beside bare sentencepiece, datatrove and Megatron.

    python tests/benchmarks/data_shards.py TEXTS.jsonl ... [--datatrove PYTHON] [--megatron PYTHON]
                                           [--vocab-size 32000] [--rounds 3] [--json FILE]

Of each file all documents once a round, each way in turn, each in a process of its own; MB of UTF-8 per
processor-second of one core, imports and the tokenizer's loading not counted, the median of the rounds. The
limit is sentencepiece on the texts alone, one document after the other, nothing read and nothing written.
Ours is a whole `megatrain prepare` without steps, with the hash of each document, the global shuffle, shards,
lineage and manifest. datatrove reads a tokenizer.json alone (a byte-level BPE trained here), so ours is
measured with that too. The peers are Pythons in which they are installed (`data_loader.py`, `data_steps.py`
say how); without them ours alone. Read the ratios.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_tokenizer import byte_level, read_texts

from data_tools.config import DataConfig
from data_tools.prepare import prepare
from data_tools.progress import Progress
from data_tools.tokenizer.section import TokenizerTraining
from data_tools.tokenizer.train import train_tokenizer

PEER = Path(__file__).with_name("peers") / "to_shards.py"
LIMIT = "sentencepiece alone (the limit)"
EOS = "<|endoftext|>"


def bare(texts: Path, model: Path) -> list[float]:
    """Seconds and tokens of sentencepiece on texts that are in memory."""
    import sentencepiece

    held = read_texts(texts)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    start = time.process_time()
    tokens = sum(len(processor.encode(text)) + 1 for text in held)
    return [time.process_time() - start, tokens]


def ours(texts: Path, model: Path, room: Path) -> list[float]:
    """Seconds and tokens of a whole preparation in this process."""
    section = {"model": str(model), **({"eos_token": EOS} if model.suffix == ".json" else {})}
    config = DataConfig.model_validate(
        {
            "output": str(room / "out"),
            "where": {"workers": 1},
            "sources": {"texts": {"files": [str(texts)]}},
            "steps": [],
            "duplicates": {"exact": False},
            "split": {"validation": 0, "test": 0},
            "tokenizer": section,
        }
    )
    warm = texts.with_name("warm.jsonl")
    warm.write_text(json.dumps({"text": "warm"}) + "\n")
    small = config.model_copy(update={"output": str(room / "warm")})
    small = small.model_copy(
        update={"sources": {"texts": config.sources["texts"].model_copy(update={"files": (str(warm),)})}}
    )
    prepare(small, Progress(io.StringIO()))  # imports
    start = time.process_time()
    made = prepare(config, Progress(io.StringIO()))
    spent = time.process_time() - start
    return [spent, sum(shard.tokens for shard in made.splits["train"].shards)]


def ways(options: argparse.Namespace, texts: Path, room: Path) -> dict[str, list[object]]:
    """Name → the command of each."""
    model, hf = room / "tokenizer.model", room / "tokenizer.json"
    here: list[object] = [sys.executable, __file__]
    found: dict[str, list[object]] = {
        LIMIT: [*here, "--run", "bare", texts, model],
        "megatrain prepare": [*here, "--run", "ours", texts, model],
    }
    if options.megatron:
        found["Megatron's way"] = [options.megatron, PEER, "megatron", texts, model]
    found["megatrain prepare, tokenizer.json"] = [*here, "--run", "ours", texts, hf]
    if options.datatrove:
        found["datatrove, tokenizer.json"] = [options.datatrove, PEER, "datatrove", texts, hf, EOS]
    return found


def measure(options: argparse.Namespace, texts: Path, room: Path) -> dict[str, float]:
    """MB per processor-second of each way."""
    seconds: dict[str, list[float]] = {}
    tokens: dict[str, int] = {}
    size = sum(len(text.encode()) for text in read_texts(texts)) / 1e6
    for _ in range(options.rounds):
        for name, command in ways(options, texts, room).items():
            with tempfile.TemporaryDirectory(dir=room) as folder:
                spent, tokens[name] = said([*command, Path(folder) / "room"], ours=__file__ in command)
            seconds.setdefault(name, []).append(spent)
    print(f"{texts.name}: {size:.1f} MB; tokens: " + ", ".join(f"{n:,}" for n in tokens.values()))
    assert tokens[LIMIT] == tokens["megatrain prepare"] == tokens.get("Megatron's way", tokens[LIMIT])
    return {name: size / statistics.median(times) for name, times in seconds.items()}


def said(command: Sequence[object], *, ours: bool) -> tuple[float, int]:
    """What a program prints as JSON in its last line; its environment is its own."""
    path = os.pathsep.join(sys.path) if ours else ""
    ran = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    if ran.returncode:
        raise SystemExit(f"{command[0]}: {ran.stderr.strip() or 'no word'}")
    spent, tokens = json.loads(ran.stdout.splitlines()[-1])
    return spent, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--datatrove", type=Path, metavar="PYTHON")
    parser.add_argument("--megatron", type=Path, metavar="PYTHON")
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--run", choices=("bare", "ours"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        texts, model, room = options.texts
        room.mkdir()
        print(json.dumps(bare(texts, model) if options.run == "bare" else ours(texts, model, room)))
        return
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        everything = [text for path in options.texts for text in read_texts(path)]
        section = TokenizerTraining(vocab_size=options.vocab_size, character_coverage=0.9995)
        (room / "tokenizer.model").write_bytes(train_tokenizer(everything, section))
        (room / "tokenizer.json").write_bytes(byte_level(everything, options.vocab_size))
        del everything
        for path in options.texts:
            results[path.name] = speeds = measure(options, path.absolute(), room)
            for way, speed in speeds.items():
                print(f"  {way:<40}{speed:>7.2f} MB/s{speed / speeds[LIMIT]:>7.2f} × the limit", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
