"""JSON lines to token files by datatrove's and Megatron's own ways, run by a Python that has them installed.

    PYTHON to_shards.py datatrove TEXTS.jsonl tokenizer.json EOS FOLDER
    PYTHON to_shards.py megatron TEXTS.jsonl tokenizer.model FOLDER

Prints a line of JSON: the processor-seconds of this process, imports and the tokenizer's loading not counted,
and how many tokens were written. datatrove: JsonlReader and DocumentTokenizer, which shuffles, in one task.
Megatron: what its tools/preprocess_data.py does with a sentencepiece model and --append-eod, in one process:
a document encoded at a time, IndexedDatasetBuilder.add_document. It is not part of its package.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def datatrove(texts: Path, tokenizer: str, eos: str, folder: Path) -> tuple[float, int]:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from tokenizers import Tokenizer

    Tokenizer.from_file(tokenizer).encode("warm")
    pipeline = [
        JsonlReader(str(texts.parent), glob_pattern=texts.name),
        DocumentTokenizer(
            str(folder / "out"),
            tokenizer_name_or_path=tokenizer,
            eos_token=eos,
            local_working_dir=str(folder / "work"),
            seed=1,
        ),
    ]
    start = time.process_time()
    with contextlib.redirect_stdout(sys.stderr):
        LocalPipelineExecutor(
            pipeline=pipeline, tasks=1, workers=1, logging_dir=str(folder / "logs"), skip_completed=False
        ).run()
    spent = time.process_time() - start
    return spent, sum(path.stat().st_size for path in (folder / "out").glob("*.ds")) // 2


def megatron(texts: Path, model: str, folder: Path) -> tuple[float, int]:
    import importlib

    import numpy as np
    import sentencepiece
    import torch

    indexed_dataset: Any = importlib.import_module("megatron.core.datasets.indexed_dataset")
    processor = sentencepiece.SentencePieceProcessor(model_file=model)
    eos, tokens = processor.eos_id(), 0
    folder.mkdir()
    start = time.process_time()
    builder = indexed_dataset.IndexedDatasetBuilder(
        str(folder / "text.bin"), dtype=indexed_dataset.DType.optimal_dtype(processor.vocab_size())
    )
    with texts.open(encoding="utf-8") as lines:
        for line in lines:
            ids = [*processor.encode(json.loads(line)["text"]), eos]
            builder.add_document(torch.from_numpy(np.array(ids, np.int64)), [len(ids)])
            tokens += len(ids)
    builder.finalize(str(folder / "text.idx"))
    return time.process_time() - start, tokens


def main(arguments: Sequence[str]) -> None:
    peer, texts, *rest, folder = arguments
    match peer:
        case "datatrove":
            spent, tokens = datatrove(Path(texts), rest[0], rest[1], Path(folder))
        case "megatron":
            spent, tokens = megatron(Path(texts), rest[0], Path(folder))
        case _:
            raise SystemExit(f"no such peer: {peer}")
    print(json.dumps([spent, tokens]))


if __name__ == "__main__":
    main(sys.argv[1:])
