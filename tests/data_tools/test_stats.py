"""The statistics are the dataset's, and the page shows them to everybody, alone."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from data_tools.stats.charts import bars, stream
from data_tools.stats.figures import compact, compact_power, percent
from data_tools.stats.flow import Flow, flows, together
from data_tools.stats.page import page
from data_tools.stats.report import report
from tests.data_tools.finished import corpus, make_dataset

DRAMA, VERSE = corpus("drama", 20), corpus("verse", 20)
ODD = "a <b> & 'c\" 诗"
MADE: dict[str, Any] = {
    "pipeline_version": 2,
    "config": {
        "steps": [{"extract": {}}, {"language": {}}, {"gopher_quality": {}}, {"decontaminate": {}}],
        "sources": {"web": {"steps": None}, ODD: {"steps": [{"language": {}}, {"clean": {}}]}},
    },
    "counts": {
        "web": {
            "duplicates.near": 7,
            "gopher_quality.stop_words": 20,
            "gopher_quality.symbols": 10,
            "kept": 20,
            "kept_bytes": 9000,
            "language.other": 40,
            "read": 103,
            "decontaminate.farm": 3,
            "read.broken_json": 3,
            "extract.empty": 0,
        },
        ODD: {"read": 25, "kept": 20, "clean.empty": 1, "language.other": 4, "kept_bytes": 1},
    },
    "changes": {"web": {"pii.email": 31, "duplicates.cut_bytes": 5120}, ODD: {}},
    "languages": {"web": {"en": 15, "de": 5}, ODD: {"zh": 20}},
    "evaluation_sets": {"farm": {"texts": 12, "too_short": 2}, "<biology>": {"texts": 5, "too_short": 0}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = {"train": {"web": DRAMA, ODD: VERSE[:15]}, "validation": {ODD: VERSE[15:]}}
    return make_dataset(tmp_path_factory.mktemp("stats") / "data", texts, made=MADE)


def test_documents_of_invalid_bytes_are_drops() -> None:
    counts = {"read": 3, "read.invalid_bytes": 1, "kept": 2, "kept_bytes": 90}
    flow = flows({"counts": {"a": counts}})["a"]
    assert flow.drops == {"read.invalid_bytes": 1} and flow.unexplained == 0


def test_drops_come_in_the_order_of_the_steps() -> None:
    found = flows(MADE)
    assert (found["web"].read, found["web"].kept) == (103, 20)
    assert found["web"].drops["gopher_quality.stop_words"] == 20
    assert list(found["web"].drops) == [
        "read.broken_json",
        "language.other",
        "gopher_quality.stop_words",
        "gopher_quality.symbols",
        "decontaminate.farm",
        "duplicates.near",
    ]
    steps = {"reading": 3, "language": 40, "gopher_quality": 30, "decontaminate": 3, "duplicates": 7}
    assert found["web"].by_step == steps
    assert list(found[ODD].drops) == ["language.other", "clean.empty"]
    assert [flow.unexplained for flow in found.values()] == [0, 0]
    every = together(found.values())
    assert (every.read, every.kept, every.drops["language.other"], every.unexplained) == (128, 40, 44, 0)


def test_reasons_of_all_sources_have_the_order_of_each() -> None:
    lists = [["a", "c", "d"], ["b", "c", "e"], ["e", "d"], []]
    order = list(together([Flow(9, 0, dict.fromkeys(one, 1)) for one in lists]).drops)
    assert sorted(order) == ["a", "b", "c", "d", "e"]
    assert all([reason for reason in order if reason in one] == one for one in lists)
    contradicting = [Flow(9, 0, {"a": 1, "b": 2}), Flow(9, 0, {"b": 3, "a": 4})]
    assert together(contradicting).drops == {"a": 5, "b": 5}


def test_counts_of_the_first_version_are_read_too() -> None:
    counts = {"read": 9, "clean": 7, "clean_bytes": 800, "invalid_utf8_replaced": 2, "too_short": 2}
    (flow,) = flows({"counts": {"a": {**counts, "duplicate": 1, "kept": 6, "kept_bytes": 700}}}).values()
    assert (flow.drops, flow.unexplained) == ({"too_short": 2, "duplicate": 1}, 0)
    assert flows({}) == {}


def test_what_counts_do_not_explain_is_said(folder: Path, tmp_path: Path) -> None:
    made = {"counts": {"web": {"read": 12, "kept": 7, "length.short": 2}}}
    found = report(make_dataset(tmp_path / "data", {"train": {"web": DRAMA[:7]}}, made=made))
    assert re.search(r"unexplained +3 +3\n", found.text()) and "unexplained" in page(found)
    assert "unexplained" not in report(folder).text() + page(report(folder))


def test_the_tables_and_the_json_hold_the_numbers(folder: Path) -> None:
    found = report(folder)
    assert re.search(r"pii\.email +31 +0\n", found.text()) and "duplicates.cut_bytes" in page(found)
    text = found.text()
    assert re.search(r"gopher_quality\.stop_words +-20 \(19\.4%\) +0 +-20 \(15\.6%\)\n", text)
    assert "en 15, de 5" in text and found.fingerprints["validation"] in text
    assert re.search(r"farm +12 +2 +3\n<biology> +5 +0 +0\n", text)
    assert re.search(r"\nsource web +20 ", text) and "never used:" in text
    tree = json.loads(found.json())
    assert tree["evaluation_sets"]["farm"] == {"texts": 12, "too_short": 2, "documents": 3}
    assert tree["fertility"]["by_source"]["web"]["documents"] == 20
    assert tree["made"] == MADE
    assert [(row["split"], row["source"], row["documents"]) for row in tree["statistics"]] == [
        ("train", ODD, 15),
        ("train", "web", 20),
        ("validation", ODD, 5),
    ]
    assert tree["statistics"][0]["length_quantiles"]["1.0"] == found.rows[0].quantiles()[-1]


class Page(HTMLParser):
    """Elements that are open when the page ends, all names, all attributes, all text."""

    VOID = ("meta", "rect", "path")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_stands_alone(folder: Path) -> None:
    text = page(report(folder))
    found = Page(text)
    assert found.open == [] and found.names.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert not any(name in ("src", "href", "srcset") or name.startswith("on") for name, _ in found.attributes)
    assert "url(" not in text and "@import" not in text and "://" not in text
    assert len(text) < 60_000
    assert page(report(folder)) == text


def test_the_page_says_in_words_and_tables_what_its_pictures_show(folder: Path) -> None:
    text = page(report(folder))
    pictures = [ElementTree.fromstring(one) for one in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]
    assert len(pictures) == 6  # stream, drops, sources, two histograms, languages
    for picture in pictures:
        assert picture.get("role") == "img" and len(picture.get("aria-label") or "") > 20
        for shape in picture.iter("rect"):
            assert (shape.find("title") is not None) and float(shape.get("width") or 0) >= 0
    found = Page(text)
    assert text.count("<table>") == text.count("<caption>") == 7
    assert text.count("<details>") == 4 and text.count("<details open>") == 3  # those without a picture
    assert "<biology>" in found.text and "<biology>" not in text
    assert ODD in found.text and ODD not in text  # escaped
    assert "Of 128 documents read, 40 were kept" in str(pictures[0].get("aria-label"))
    assert 'lang="en"' in text and "prefers-color-scheme: dark" in text
    classes = set(re.findall(r'(?:fill|back)-([\w]+)"', text))
    assert classes and all(f".fill-{name} {{" in text and f"--{name}:" in text for name in classes)


def test_a_dataset_without_counts_has_a_page_too(tmp_path: Path) -> None:
    text = page(report(make_dataset(tmp_path / "data", {"test": {"verse": VERSE}})))
    assert Page(text).open == [] and "From raw to kept" not in text and "Languages" not in text


def widths(svg: str) -> dict[str, float]:
    """Of each shape with a title: its width."""
    found = {}
    for shape in ElementTree.fromstring(svg).iter("rect"):
        title = shape.find("title")
        assert title is not None and title.text is not None
        found[title.text] = float(shape.get("width") or 0)
    return found


def test_bars_are_as_long_as_they_say() -> None:
    rows = [("x", {"a": 30.0, "b": 10.0}), ("y", {"a": 10.0}), ("z", {})]
    size = widths(bars(rows, {"a": "c0"}, "name", unit="u", scale="size"))
    assert size["x, a: 30.0 u (75.0%)"] == pytest.approx(3 * size["x, b: 10.0 u (25.0%)"], abs=0.2)
    assert size["y, a: 10.0 u (100.0%)"] == size["x, b: 10.0 u (25.0%)"]
    share = widths(bars(rows, {"a": "c0"}, "name", unit="u", scale="share"))
    assert share["y, a: 10.0 u (100.0%)"] == pytest.approx(
        share["x, a: 30.0 u (75.0%)"] + share["x, b: 10.0 u (25.0%)"], abs=0.2
    )


def test_the_stream_is_as_wide_as_what_is_left() -> None:
    flow = Flow(1000, 300, {"a.x": 400, "a.y": 100, "b": 200})
    found = widths(stream(flow))
    whole = found["1,000 read"]
    assert found["after a: 500"] == pytest.approx(whole / 2, abs=0.1)
    assert found["after b: 300"] == pytest.approx(whole * 0.3, abs=0.1)
    assert Flow(0, 0, {}) and "read: 0 documents" in stream(Flow(0, 0, {}))


def test_numbers_are_told_short() -> None:
    assert [compact(n) for n in (0, 999, 1000, 12_345, 4_560_000, 1.2e9, 3.4e12, 5e15)] == [
        *("0", "999", "1 k", "12.3 k", "4.56 M", "1.2 G", "3.4 T", "5e+03 T")
    ]
    assert [compact_power(power) for power in (0, 9, 10, 13, 20, 31)] == ["1", "512", "1k", "8k", "1M", "2G"]
    assert [percent(share) for share in (0, 1e-9, 0.0005, 0.5, 1)] == [
        "0.0%",
        "<0.1%",
        "0.1%",
        "50.0%",
        "100.0%",
    ]
