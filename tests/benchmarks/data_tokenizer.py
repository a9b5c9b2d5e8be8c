"""What encoding to an array of tokens costs beside bare sentencepiece and Hugging Face's library.

    python tests/benchmarks/data_tokenizer.py [TEXTS.jsonl ...] [--vocab-size 32000] [--rounds 3]
                                              [--json FILE]

Of each file (default: the bundled corpus) the field `text` of each line, all documents once a round, each way
in turn; MB of UTF-8 per processor-second of one core, the median of the rounds, and each way's tokenizer
loaded anew each round, so that no memory of words is carried over. The ids are compared. Read the ratios.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import tokenizers

from data_tools.tokenizer.section import TokenizerTraining
from data_tools.tokenizer.train import train_tokenizer
from megatrain.data.tokenizer import Tokenizer, describe

CORPUS = Path(__file__).resolve().parents[2] / "data_tools" / "corpus"
Texts = Sequence[str]
OURS, WHOLE = "megatrain encode_many", "sentencepiece, document by document"


def ways(model: bytes, hf: bytes) -> dict[str, Callable[[], Callable[[Texts], Any]]]:
    """Name → what loads a tokenizer and gives its way of encoding texts."""

    def bare(call: Callable[[Any, Texts], Any]) -> Callable[[], Callable[[Texts], Any]]:
        def load() -> Callable[[Texts], Any]:
            processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            return lambda texts: call(processor, texts)

        return load

    def library() -> Callable[[Texts], Any]:
        loaded = tokenizers.Tokenizer.from_str(hf.decode())
        return lambda texts: [
            loaded.encode_batch_fast([text], add_special_tokens=False)[0].ids for text in texts
        ]

    return {
        WHOLE: bare(lambda processor, texts: [processor.encode(text) for text in texts]),
        "sentencepiece, one call": bare(lambda processor, texts: processor.encode(texts, num_threads=1)),
        "sentencepiece, numpy": bare(
            lambda processor, texts: [processor.encode(text, return_type="numpy") for text in texts]
        ),
        OURS: lambda: Tokenizer(model, describe("sentencepiece", model)).encode_many,
        "tokenizers, byte-level BPE": library,
        "megatrain encode_many, that": lambda: Tokenizer(hf, describe("hf", hf, eos_id=0)).encode_many,
    }


def measure(texts: Texts, model: bytes, hf: bytes, rounds: int) -> dict[str, float]:
    """MB per processor-second of each way. Raises ValueError where ids differ from bare sentencepiece's."""
    seconds: dict[str, list[float]] = {}
    found: dict[str, Any] = {}
    for _ in range(rounds):
        for name, load in ways(model, hf).items():
            encode = load()
            start = time.process_time()
            found[name] = encode(texts)
            seconds.setdefault(name, []).append(time.process_time() - start)
    expected = np.concatenate([np.array([*ids, 2], np.int64) for ids in found[WHOLE]])
    if not np.array_equal(found[OURS].tokens, expected):
        raise ValueError("the ids differ from those of sentencepiece on whole documents")
    size = sum(len(text.encode()) for text in texts) / 1e6
    return {name: size / statistics.median(times) for name, times in seconds.items()}


def byte_level(texts: Texts, vocab_size: int) -> bytes:
    """A tokenizer.json as GPT-2's."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    text: str = made.to_str()
    return text.encode()


def read_texts(path: Path) -> list[str]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("texts", nargs="*", type=Path)
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    files = options.texts or [CORPUS / "drama.jsonl.gz", CORPUS / "verse.jsonl.gz"]
    corpora = {path.name.split(".")[0]: read_texts(path) for path in files}
    everything = [text for texts in corpora.values() for text in texts]
    section = TokenizerTraining(vocab_size=options.vocab_size, character_coverage=0.9995)
    model, hf = train_tokenizer(everything, section), byte_level(everything, options.vocab_size)
    results = {
        name: measure(texts, model, hf, options.rounds)
        for name, texts in {**corpora, "all": everything}.items()
    }
    for name, speeds in results.items():
        print(name)
        for way, speed in speeds.items():
            print(f"  {way:<40}{speed:>7.2f} MB/s{speed / speeds[WHOLE]:>7.2f} × bare")
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
