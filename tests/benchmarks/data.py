"""All measurements of data preparation and loading, one after the other in one run, on one real corpus.

    python tests/benchmarks/corpus.py FOLDER        # once: 530 MB of raw records and verse
    python tests/benchmarks/data.py FOLDER [--peers PYTHON] [--datatrove PYTHON] [--only loader shards ...]
                                           [--out DIR] [--rounds 3]

| part | program | what |
|---|---|---|
| loader | data_loader.py | batches from shards, against the limit and four peers |
| encode | data_tokenizer.py | encoding, against bare sentencepiece and Hugging Face's tokenizers |
| shards | data_shards.py | JSON lines to shards, against bare sentencepiece, datatrove and Megatron |
| steps | data_steps.py | extraction, filters, signatures, against datatrove's |
| pipeline | data_pipeline.py | a whole preparation of 1, 2 and 4 times the data: time and memory |

Each program says in its own words what its peers need. Texts are English (what our extraction makes of the
pages) and Chinese (verse); the loader reads random ids in documents of the web's lengths, 400 MB of them.
Nothing else should run meanwhile: the load is printed before each part.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from data_tools.document import Document
from data_tools.readers import Source, find_files, read_documents
from data_tools.steps.clean import Clean
from data_tools.steps.extract import Extract

HERE = Path(__file__).parent
PARTS = ("loader", "encode", "shards", "steps", "pipeline")
ENGLISH, CHINESE = "english.jsonl", "chinese.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="with the loader's peers")
    parser.add_argument("--datatrove", type=Path, metavar="PYTHON", help="with datatrove")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, help="a folder for every single figure, as JSON")
    parser.add_argument("--text-mb", type=float, default=20, help="of each language, for encode and shards")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    web = sorted(chosen.corpus.glob("web-*.warc.gz"))
    poems = sorted(chosen.corpus.glob("poems-*.jsonl.gz"))
    if not web or not poems:
        raise SystemExit(f"{chosen.corpus}: no corpus there; make one with tests/benchmarks/corpus.py")
    texts = [chosen.corpus / ENGLISH, chosen.corpus / CHINESE]
    if {"encode", "shards"} & {*chosen.only}:
        write(texts[0], english(web), chosen.text_mb)
        write(texts[1], chinese(poems), chosen.text_mb)
    rounds = ["--rounds", chosen.rounds]
    peers = ["--peers", chosen.peers] if chosen.peers else []
    megatron = ["--megatron", chosen.peers] if chosen.peers else []
    trove = ["--datatrove", chosen.datatrove] if chosen.datatrove else []
    steps = ["--peer", chosen.datatrove] if chosen.datatrove else []
    commands: dict[str, list[object]] = {
        "loader": [*peers, "--rounds", max(chosen.rounds, 5)],
        "encode": [*texts, *rounds],
        "shards": [*texts, *trove, *megatron, *rounds],
        "steps": [*web, *steps, "--text-mb", 4, "--page-mb", 6, *rounds],
        "pipeline": [*web, "--rounds", 1],
    }
    programs = {"encode": "data_tokenizer"}
    for part in chosen.only:
        told = ["--json", chosen.out / f"{part}.json"] if chosen.out else []
        run(part, programs.get(part, f"data_{part}"), [*commands[part], *told])


def run(part: str, program: str, arguments: list[object]) -> None:
    """One program, with what it prints."""
    print(f"\n== {part}, load {os.getloadavg()[0]:.1f}, {time.strftime('%H:%M')}", flush=True)
    command = [sys.executable, str(HERE / f"{program}.py"), *map(str, arguments)]
    if code := subprocess.run(command).returncode:
        print(f"{part} failed: exit code {code}")


def write(path: Path, texts: Iterator[str], most_mb: float) -> None:
    """JSON lines of the first texts, unless they are there."""
    if path.exists():
        return
    size = 0
    with path.with_suffix(".part").open("w", encoding="utf-8") as out:
        for text in texts:
            out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            size += len(text.encode())
            if size > most_mb * 1e6:
                break
    path.with_suffix(".part").rename(path)


def english(web: list[Path]) -> Iterator[str]:
    """The texts of pages, most of them English."""
    source = Source(files=tuple(map(str, web)))
    extract, clean = Extract().build(), Clean().build()
    for part in find_files("web", source):
        for _, found in read_documents(part, source, "web"):
            for step in (extract, clean):
                if isinstance(found, Document):
                    found = step(found)
            if isinstance(found, Document) and len(found.text) > 200:
                yield found.text


def chinese(poems: list[Path]) -> Iterator[str]:
    """Verse, twenty poems a document."""
    for path in poems:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            while some := list(islice(lines, 20)):
                poems_of_it = [text for line in some if (text := json.loads(line)["text"].strip())]
                if poems_of_it:
                    yield "\n\n".join(poems_of_it)


if __name__ == "__main__":
    main()
