"""What extraction keeps and loses of real pages in five scripts, beside resiliparse and trafilatura.

    python tests/benchmarks/extraction.py [--pages 40] [--rounds 3] [--packages FOLDER]

The pages are manuals in Debian packages (debian-handbook, installation-guide-amd64, maint-guide), fetched by
`apt-get download` into a temporary folder, or from --packages, a folder of .deb files. What is content and
what navigation is known of these pages by the names that their makers give (DocBook's navheader, Publican's
docnav, ...), and is read by Python's own html.parser, which shares no code with any of the three.

- kept: of the visible characters of the content, those that are in the text (as a bag of characters).
- damaged: pages that lose more than 0.5 % of them.
- navigation: pages whose text holds a text of the page's navigation that its content does not have.
- time: processor time of all pages, the least of the rounds, as a ratio to resiliparse.
"""

from __future__ import annotations

import argparse
import gzip
import subprocess
import tempfile
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import trafilatura
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from data_tools.pages import render

PACKAGES = ("debian-handbook", "installation-guide-amd64", "maint-guide")
DOC = Path("usr", "share", "doc")
FOLDERS = {
    "Chinese": ("debian-handbook/html/zh-CN", "installation-guide-amd64/zh_CN"),
    "Japanese": ("debian-handbook/html/ja-JP", "installation-guide-amd64/ja"),
    "Korean": ("debian-handbook/html/ko-KR", "installation-guide-amd64/ko"),
    "Arabic": ("debian-handbook/html/ar-MA", "debian-handbook/html/fa-IR"),
    "English": ("debian-handbook/html/en-US", "installation-guide-amd64/en", "maint-guide/html"),
}
NAVIGATION = {
    "navheader",
    "navfooter",
    "docnav",
    "toc",
    "list-of-tables",
    "list-of-figures",
    "list-of-examples",
}
NAVIGATION_IDS = {"banner", "title"}
INVISIBLE = ("head", "script", "style", "title")
VOID = ("br", "hr", "img", "meta", "link", "input", "col")
SCRIPTS = {
    "CJK": "Han",
    "HIRAGANA": "kana",
    "KATAKANA": "kana",
    "HANGUL": "Hangul",
    "ARABIC": "Arabic",
    "LATIN": "Latin",
}
DAMAGED = 0.005
Method = Callable[[str], str]


@dataclass
class Oracle(HTMLParser):
    """The visible texts of a page, those of its navigation apart."""

    content: list[str] = field(default_factory=list)
    navigation: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        names = (given.get("class") or "").lower().split()
        if tag in VOID:
            return
        kind = "invisible" if tag in INVISIBLE else ""
        if NAVIGATION & set(names) or (given.get("id") or "") in NAVIGATION_IDS:
            kind = "navigation"
        self.open.append(kind)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and self.open:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if "invisible" not in self.open:
            (self.navigation if "navigation" in self.open else self.content).append(data)


@dataclass
class Found:
    """What a method makes of the pages of a language."""

    kept: Counter[str] = field(default_factory=Counter)
    content: Counter[str] = field(default_factory=Counter)
    """By script: characters."""
    pages: int = 0
    damaged: int = 0
    with_navigation: int = 0


def ours(html: str) -> str:
    return render(HTMLTree.parse(html), main_content=True).text


def resiliparse_text(html: str) -> str:
    return str(extract_plain_text(HTMLTree.parse(html), main_content=True, alt_texts=False, comments=False))


def trafilatura_text(html: str) -> str:
    return trafilatura.extract(html, favor_precision=True, include_comments=False) or ""


METHODS: Mapping[str, Method] = {
    "megatrain": ours,
    "resiliparse": resiliparse_text,
    "trafilatura": trafilatura_text,
}


def read_pages(root: Path, most: int) -> Iterator[tuple[str, list[str]]]:
    """By language, pages at even distances of each of its manuals."""
    for language, folders in FOLDERS.items():
        pages = list[str]()
        for folder in folders:
            files = sorted((root / DOC / folder).glob("*.html*"))
            for file in files[:: max(len(files) * len(folders) // most, 1)]:
                content = file.read_bytes()
                pages.append((gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode())
        yield language, pages


def script_of(character: str) -> str:
    if not character.isalpha():
        return "signs"
    return SCRIPTS.get(unicodedata.name(character, "").split(" ")[0].split("-")[0], "other")


def characters(text: str) -> Counter[str]:
    return Counter("".join(text.split()))


def by_script(found: Mapping[str, int]) -> Counter[str]:
    scripts = Counter[str]()
    for character, count in found.items():
        scripts[script_of(character)] += count
    return scripts


def judge(method: Method, pages: Sequence[str]) -> Found:
    found = Found()
    for html in pages:
        oracle = Oracle()
        oracle.feed(html)
        oracle.close()
        wanted = "".join(oracle.content)
        content, text = characters(wanted), method(html)
        kept = content & characters(text)
        if not content:
            continue
        found.pages += 1
        found.kept += by_script(kept)
        found.content += by_script(content)
        found.damaged += kept.total() < (1 - DAMAGED) * content.total()
        navigation = {one.strip() for one in oracle.navigation if one.strip()}
        lines = {cell.strip(" •") for line in text.splitlines() for cell in line.split("\t")}
        found.with_navigation += any(one in lines and one not in wanted for one in navigation)
    return found


def seconds(method: Method, pages: Sequence[str], rounds: int) -> float:
    times = list[float]()
    for _ in range(rounds):
        began = time.process_time()
        for html in pages:
            method(html)
        times.append(time.process_time() - began)
    return min(times)


def unpack(folder: Path | None, room: Path) -> Path:
    """Unpack the packages, fetched where no folder has them."""
    if folder is None:
        folder = room / "packages"
        folder.mkdir()
        if subprocess.run(["apt-get", "download", *PACKAGES], cwd=folder).returncode:
            subprocess.run(["apt-get", "update"], check=True)
            subprocess.run(["apt-get", "download", *PACKAGES], cwd=folder, check=True)
    for package in PACKAGES:
        (file,) = folder.glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", file, room / "files"], check=True)
        print(file.name)
    return room / "files"


def percent(kept: int, content: int) -> str:
    return f"{100 * kept / content:.2f}" if content else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pages", type=int, default=40, help="of each language")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--packages", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        languages = dict(read_pages(unpack(options.packages, Path(room)), options.pages))
    print(f"resiliparse {version('resiliparse')}, trafilatura {version('trafilatura')}")
    spent: dict[str, dict[str, float]] = defaultdict(dict)
    print("| pages | method | kept of the content, % | by script, % | damaged | with navigation |")
    print("|---|---|---:|---|---:|---:|")
    for language, pages in languages.items():
        for name, method in METHODS.items():
            one = judge(method, pages)
            scripts = ", ".join(
                f"{script} {percent(one.kept[script], count)}" for script, count in one.content.most_common(4)
            )
            print(
                f"| {language} | {name} | {percent(one.kept.total(), one.content.total())} | {scripts} "
                f"| {one.damaged} of {one.pages} | {one.with_navigation} |"
            )
            spent[name][language] = seconds(method, pages, options.rounds)
    print("\n| time, as a ratio to resiliparse | " + " | ".join(languages) + " | all |")
    print("|---|" + "---:|" * (len(languages) + 1))
    base = spent["resiliparse"]
    for name, times in spent.items():
        ratios = [f"{times[language] / base[language]:.1f}" for language in languages]
        print(f"| {name} | {' | '.join(ratios)} | {sum(times.values()) / sum(base.values()):.1f} |")


if __name__ == "__main__":
    main()
