"""What the steps of data preparation cost beside datatrove's, on the same text, in turn in one run.

    python tests/benchmarks/data_steps.py WEB.warc.gz ... [--peer PYTHON] [--text-mb 4] [--page-mb 12]
                                          [--rounds 3] [--json FILE]

Pages: of the files (`corpus.py` makes some), until the two sizes are reached. Texts: what our extraction
gives of English pages. MB (of UTF-8; of HTML for the extraction) per processor-second of one core, the median
of the rounds; each step by itself on new documents, and the four filters in a row, a dropped document going
no further. datatrove splits words by spaCy; the steps that do are measured a second time with a regular
expression given to its hook for another splitter. Without --peer ours alone. The peer is a Python with
datatrove, apart from this one, since it pins other versions:

    python -m venv peer
    peer/bin/pip install 'datatrove[io,processing]==0.10.1' 'xxhash<4' lxml_html_clean spacy requests aiohttp
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.document import Document, Drop, Step
from data_tools.duplicates.near import Signer
from data_tools.duplicates.settings import Near
from data_tools.readers import Source, find_files, read_documents
from data_tools.steps.c4_quality import C4Quality
from data_tools.steps.extract import Extract, decode_page
from data_tools.steps.fineweb_quality import FinewebQuality
from data_tools.steps.gopher_quality import GopherQuality
from data_tools.steps.gopher_repetition import GopherRepetition
from data_tools.steps.language import Language, bundled_model
from data_tools.steps.pii import Pii

PEER = Path(__file__).resolve().parent / "peers" / "datatrove_steps.py"
# Documents signed together, as collecting does it (data_tools/collected.py).
BATCH_BYTES = 1 << 22
FILTER_NAMES = ("gopher_repetition", "gopher_quality", "c4_quality", "fineweb_quality")
FILTERS = tuple(
    kind.model_validate({}) for kind in (GopherRepetition, GopherQuality, C4Quality, FinewebQuality)
)
Way = Callable[[], int]
"""Passes all documents through a step once; gives how many were kept."""


@dataclass(frozen=True)
class Row:
    """A line of the table: what is measured, and the peer's steps that it stands beside (none, one, or one
    by spaCy and one by a regular expression)."""

    name: str
    peers: tuple[str, ...]
    size_mb: float
    way: Way


@dataclass
class Found:
    """What a row's rounds gave."""

    cpu_s: list[float]
    kept: int = 0

    def speed(self, size_mb: float) -> float:
        return size_mb / statistics.median(self.cpu_s)


def rows(pages: Sequence[str], texts: Sequence[str]) -> list[Row]:
    html = [page.encode() for page in pages]
    page_mb = sum(map(len, html)) / 1e6
    text_mb = sum(len(text.encode()) for text in texts) / 1e6

    def row(name: str, peers: tuple[str, ...], *sections: Any) -> Row:
        steps = [section.build() for section in sections]
        return Row(name, peers, text_mb, lambda: passed((Document(text, "web") for text in texts), steps))

    extract = Extract().build()
    whole = 1_000_000_000
    signer = Signer(Near())
    return [
        Row(
            "extract",
            ("extract",),
            page_mb,
            lambda: passed((Document("", "web", content=page) for page in html), [extract]),
        ),
        *(row(step, both_of(step), section) for step, section in zip(FILTER_NAMES, FILTERS, strict=True)),
        row("the four in a row", both_of("four"), *FILTERS),
        row("language, of the whole text", ("language",), Language(keep=("en",), max_characters=whole)),
        row("language, as it is set", ("language",), Language(keep=("en",))),
        row("pii, e-mail and IP", ("pii",), Pii(mask=("email", "ip"))),
        row("pii, phones and secrets too", (), Pii()),
        Row("minhash, 14 × 8, 5-grams", both_of("minhash"), text_mb, lambda: signed(signer, texts)),
    ]


def both_of(step: str) -> tuple[str, str]:
    """A peer's step that splits words: with its default splitter, and with one by a regular expression."""
    return step, f"{step} regex"


def passed(documents: Iterator[Document], steps: Sequence[Step]) -> int:
    kept = 0
    for document in documents:
        for step in steps:
            found = step(document)
            if isinstance(found, Drop):
                break
            document = found
        else:
            kept += 1
    return kept


def signed(signer: Signer, texts: Sequence[str]) -> int:
    signatures, waiting, size = 0, list[str](), 0
    for text in texts:
        waiting.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            signatures += len(signer.band_keys(waiting))
            waiting, size = [], 0
    return signatures + (len(signer.band_keys(waiting)) if waiting else 0)


def read_sample(files: Sequence[str], page_mb: float, text_mb: float) -> tuple[list[str], list[str]]:
    """Pages of the files in order, and the text of those that are English, so many MB of each."""
    source = Source(files=tuple(files))
    english, extract = Language(keep=("en",)).build(), Extract().build()
    pages, texts = list[str](), list[str]()
    page_bytes, text_bytes = page_mb * 1e6, text_mb * 1e6
    for part in find_files("web", source):
        for _, found in read_documents(part, source, "web"):
            if isinstance(found, Drop) or found.content is None:
                continue
            if page_bytes > 0:
                page_bytes -= len(found.content)
                pages.append(decode_page(found.content, None))
            if text_bytes > 0:
                text = extract(found)
                if isinstance(text, Document) and isinstance(english(text), Document):
                    text_bytes -= len(text.text.encode())
                    texts.append(text.text)
            if page_bytes <= 0 and text_bytes <= 0:
                return pages, texts
    return pages, texts


@contextmanager
def peer_steps(
    python: Path | None, pages: Sequence[str], texts: Sequence[str]
) -> Iterator[Callable[[str], Mapping[str, Any]] | None]:
    """What runs a step of the peer's once and gives its answer; None without a peer."""
    if python is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as room:
        for name, some in (("texts", texts), ("pages", pages)):
            lines = (json.dumps({"text": text}) + "\n" for text in some)
            (Path(room) / name).write_text("".join(lines), encoding="utf-8")
        command = [python, PEER, Path(room) / "texts", Path(room) / "pages", bundled_model()]
        with subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            asking, answers = process.stdin, process.stdout

            def ask(step: str) -> Mapping[str, Any]:
                print(step, file=asking, flush=True)
                answer: dict[str, Any] = json.loads(answers.readline())
                assert answer["step"] == step
                return answer

            yield ask
            asking.close()


def measure(
    rows: Sequence[Row], ask: Callable[[str], Mapping[str, Any]] | None, rounds: int
) -> dict[str, dict[str, Found]]:
    """Of each row, ours and (by the name of its step) the peer's; each round asks each of the peer's once."""
    ours, peers = dict[str, Found](), dict[str, Found]()
    for number in range(rounds + 1):
        for row in rows:
            if number == 0:  # what is loaded or compiled at first use
                row.way()
                continue
            began = time.process_time()
            kept = row.way()
            found = ours.setdefault(row.name, Found([]))
            found.cpu_s.append(time.process_time() - began)
            found.kept = kept
            if ask is None:
                continue
            for peer in row.peers:
                theirs = peers.setdefault(peer, Found([]))
                if len(theirs.cpu_s) < number:
                    answer = ask(peer)
                    theirs.cpu_s.append(answer["cpu_s"])
                    theirs.kept = answer["kept"]
    return {"ours": ours, "peer": peers}


def print_table(table: Sequence[Row], found: Mapping[str, Mapping[str, Found]]) -> None:
    print("| step | MB | megatrain | datatrove | ratio | words by a regular expression | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for row in table:
        ours = found["ours"][row.name]
        speed = ours.speed(row.size_mb)
        cells = [row.name, f"{row.size_mb:.1f}", f"{speed:.2f} ({ours.kept:,})"]
        for theirs in (found["peer"][peer] for peer in row.peers if peer in found["peer"]):
            each = theirs.speed(row.size_mb)
            cells += [f"{each:.2f} ({theirs.kept:,})", f"{speed / each:.1f}"]
        cells += [""] * (7 - len(cells))
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--text-mb", type=float, default=4)
    parser.add_argument("--page-mb", type=float, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pages, texts = read_sample(options.files, options.page_mb, options.text_mb)
    table = rows(pages, texts)
    with peer_steps(options.peer, pages, texts) as ask:
        found = measure(table, ask, options.rounds)
    print(f"{len(pages):,} pages, {len(texts):,} texts; MB a processor-second, (documents kept)")
    print_table(table, found)
    if options.peer is None:
        print("ours alone: --peer names a Python with datatrove (see --help)")
    if options.json is not None:
        results = {side: {name: vars(one) for name, one in of.items()} for side, of in found.items()}
        sizes = {row.name: row.size_mb for row in table}
        options.json.write_text(json.dumps({"mb": sizes, **results}, indent=1))


if __name__ == "__main__":
    main()
