"""A real corpus of some hundred megabytes for the benchmarks of data preparation, made from public packages.

python tests/benchmarks/corpus.py FOLDER [--packages linux-doc-6.1 ...]

`FOLDER/web-*.warc.gz`: the pages of Debian's documentation packages (English technical prose, and one book
in 26 languages), mixed by the hash of their path. `FOLDER/poems-*.jsonl.gz`: Chinese verse, from npm's
chinese-poetry (MIT). Needs Debian's apt and npm's registry; the texts keep their licences and are not to be
committed.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("linux-doc-6.1", "python3.11-doc", "debian-handbook", "erlang-doc")
POEMS = "https://registry.npmjs.org/chinese-poetry/-/chinese-poetry-2.0.1.tgz"
WEB_FILES, POEM_FILES = 16, 4
DATE = "2026-01-01T00:00:00Z"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--packages", nargs="+", default=PACKAGES)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        subprocess.run(["apt-get", "-q", "download", *arguments.packages], cwd=room, check=True)
        for package in room.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(room / "files")], check=True)
        pages = sorted((room / "files").rglob("*.html"), key=lambda path: _rank(path, room))
        for number in range(WEB_FILES):
            write_warc(
                arguments.folder / f"web-{number:02d}.warc.gz", pages[number::WEB_FILES], room / "files"
            )
    with urllib.request.urlopen(POEMS) as answer:
        poems = list(read_poems(answer.read()))
    for number in range(POEM_FILES):
        with gzip.open(arguments.folder / f"poems-{number}.jsonl.gz", "wt", encoding="utf-8") as stream:
            stream.writelines(
                json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in poems[number::4]
            )
    print(f"{len(pages):,} pages, {len(poems):,} poems in {arguments.folder}")


def write_warc(path: Path, pages: list[Path], root: Path) -> None:
    """One response record a page, each a gzip member of its own, as crawlers write them."""
    with path.open("wb") as stream:
        for page in pages:
            if page.is_symlink() or not page.is_file():
                continue
            body = page.read_bytes()
            answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + body
            head = (
                "WARC/1.0\r\nWARC-Type: response\r\n"
                f"WARC-Record-ID: <urn:uuid:{_uuid(page, root)}>\r\nWARC-Date: {DATE}\r\n"
                f"WARC-Target-URI: https://example.org/{page.relative_to(root).as_posix()}\r\n"
                f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(answer)}\r\n\r\n"
            )
            stream.write(gzip.compress(head.encode() + answer + b"\r\n\r\n", 6, mtime=0))


def read_poems(package: bytes) -> Iterator[str]:
    """Title, author and lines of each poem in the package, a document each."""
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        for member in archive:
            name = Path(member.name).name
            if (
                not member.isfile()
                or not name.startswith(("poet.", "ci.song."))
                or not name.endswith(".json")
            ):
                continue
            file = archive.extractfile(member)
            assert file is not None
            for poem in json.load(file):
                title = poem.get("title") or poem.get("rhythmic") or ""
                yield "\n".join([title, poem.get("author", ""), *poem.get("paragraphs", [])])


def _rank(path: Path, root: Path) -> str:
    return hashlib.sha256(str(path.relative_to(root)).encode()).hexdigest()


def _uuid(path: Path, root: Path) -> str:
    found = _rank(path, root)
    return f"{found[:8]}-{found[8:12]}-{found[12:16]}-{found[16:20]}-{found[20:32]}"


if __name__ == "__main__":
    main()
