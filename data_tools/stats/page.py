"""The report as one HTML page: pictures, and the same numbers as tables; no script, no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from data_tools.datasets.lengths import LengthCounts
from data_tools.datasets.overview import QUANTILE_NAMES
from data_tools.stats.charts import bars, colours_of, histogram, stream
from data_tools.stats.figures import compact, percent
from data_tools.stats.flow import EvaluationSet, Flow, together
from data_tools.stats.report import Report
from data_tools.stats.style import stylesheet
from data_tools.tokenizer.fertility import shown
from data_tools.tokenizer.report import TokenizerReport


def page(report: Report) -> str:
    """The page, complete."""
    name = report.folder.resolve().name
    sections = [_head(report, name)]
    if report.flows:
        sections.append(_flow(report.flows))
    sections.append(_sources(report))
    sections.append(_lengths(report))
    if report.changes:
        sections.append(_changes(report.changes))
    if report.languages:
        sections.append(_languages(report.languages))
    if report.evaluation_sets:
        sections.append(_evaluation_sets(report.evaluation_sets))
    sections.append(_fertility(report.fertility))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(name)}: dataset statistics</title>\n<style>{stylesheet()}</style>\n"
        "</head>\n<body>\n<main>\n" + "\n".join(sections) + "\n</main>\n</body>\n</html>\n"
    )


def _head(report: Report, name: str) -> str:
    total = Counter[str]()
    for row in report.rows:
        total.update({"documents": row.documents, "tokens": row.tokens, "text": row.text_bytes})
    tiles = {
        "documents": compact(total["documents"]),
        "tokens": compact(total["tokens"]),
        "text": f"{compact(total['text'])}B",
        "bytes a token": f"{total['text'] / total['tokens']:.2f}",
        "sources": str(len({row.source for row in report.rows})),
        "shards": f"{sum(row.shards for row in report.rows):,}",
        "vocabulary": f"{report.tokenizer.vocab_size:,}",
    }
    told = "".join(f"<div><dt>{key}</dt><dd>{escape(value)}</dd></div>" for key, value in tiles.items())
    prints = "; ".join(f"{split} <code>{value}</code>" for split, value in report.fingerprints.items())
    return (
        f"<h1>{escape(name)}</h1>\n<p class=quiet>Fingerprints: {prints}. Tokenizer "
        f"({escape(report.tokenizer.kind)}): <code>{report.tokenizer.hash}</code>.</p>\n"
        f"<dl class=tiles>{told}</dl>"
    )


def _flow(flows: Mapping[str, Flow]) -> str:
    every = together(flows.values())
    steps = list(every.by_step)
    largest = sorted(steps, key=lambda step: -every.by_step[step])
    colours = {"kept": "c0", **colours_of(largest, first=1)}
    picture = bars(
        [(source, {"kept": flow.kept, **flow.by_step}) for source, flow in flows.items()],
        colours,
        "Of each source: the share of documents that was kept, and the shares that each step dropped",
        unit="documents",
        scale="share",
    )
    columns = {**flows, "all": every}
    rows = [
        ("read", [f"{flow.read:,}" for flow in columns.values()]),
        *(
            (reason, [f"{flow.drops.get(reason, 0):,}" for flow in columns.values()])
            for reason in every.drops
        ),
        *(
            [("unexplained", [f"{flow.unexplained:,}" for flow in columns.values()])]
            if any(flow.unexplained for flow in columns.values())
            else []
        ),
        ("kept", [f"{flow.kept:,}" for flow in columns.values()]),
    ]
    return (
        "<h2>From raw to kept</h2>\n"
        + _figure(stream(every), "All sources: what each step let through, and what it dropped.")
        + "\n<h3>By source</h3>\n"
        + _legend(["kept", *steps], colours)
        + _figure(picture, "Shares of the documents read.")
        + _numbers(["documents", *columns], rows, "Documents by reason")
    )


def _sources(report: Report) -> str:
    splits = list(report.fingerprints)
    sizes: dict[str, dict[str, float]] = {}
    for row in report.rows:
        sizes.setdefault(row.source, {})[row.split] = row.tokens
    ordered = sorted(sizes.items(), key=lambda item: -sum(item[1].values()))
    colours = colours_of(splits)
    picture = bars(ordered, colours, "Tokens of each source, by split", unit="tokens", scale="size")
    rows = [
        (
            f"{row.split} / {row.source}",
            [f"{row.shards:,}", f"{row.documents:,}", f"{row.tokens:,}", f"{row.text_bytes:,}"]
            + [f"{row.text_bytes / row.tokens:.2f}"],
        )
        for row in report.rows
    ]
    columns = ["split / source", "shards", "documents", "tokens", "bytes", "bytes a token"]
    return (
        "<h2>Sources</h2>\n"
        + _legend(splits, colours)
        + _figure(picture, "Tokens.")
        + _numbers(columns, rows, "Sizes by split and source")
    )


def _lengths(report: Report) -> str:
    by_source: dict[str, list[LengthCounts]] = {}
    for row in report.rows:
        by_source.setdefault(row.source, []).append(row.lengths)
    colours = {"documents": "documents", "tokens": "tokens"}
    parts = ["<h2>Document lengths</h2>", _legend(list(colours), colours)]
    for source, counts in by_source.items():
        name = f"Source {source}: shares of documents and of tokens by document length, in powers of two"
        picture = histogram(LengthCounts.sum_of(counts), name)
        parts.append(f"<h3>{escape(source)}</h3>\n" + _figure(picture, ""))
    rows = [
        (f"{row.split} / {row.source}", [f"{length:,}" for length in row.quantiles()]) for row in report.rows
    ]
    parts.append(_numbers(["split / source", *QUANTILE_NAMES], rows, "Tokens a document, EOS included"))
    return "\n".join(parts)


def _changes(changes: Mapping[str, Mapping[str, int]]) -> str:
    sources = list(next(iter(changes.values())))
    rows = [(name, [f"{count:,}" for count in done.values()]) for name, done in changes.items()]
    return (
        "<h2>Changes</h2>\n<p class=quiet>What was done to documents that the steps let through: places, "
        "lines, documents or bytes, as each step counts.</p>\n"
        + _numbers(["", *sources], rows, "What was changed in documents", shown=True)
    )


def _languages(languages: Mapping[str, Mapping[str, int]]) -> str:
    total: Counter[str] = Counter()
    for spoken in languages.values():
        total.update(spoken)
    ordered = [name for name, _ in total.most_common()]
    colours = colours_of(ordered)
    picture = bars(
        [
            (source, {name: spoken[name] for name in ordered if name in spoken})
            for source, spoken in languages.items()
        ],
        colours,
        "Documents of each source by language",
        unit="documents",
        scale="share",
    )
    rows = [(name, [f"{spoken.get(name, 0):,}" for spoken in languages.values()]) for name in ordered]
    return (
        "<h2>Languages</h2>\n"
        + _legend(ordered, colours)
        + _figure(picture, "Shares of the documents of each source.")
        + _numbers(["language", *languages], rows, "Documents by language and source")
    )


def _evaluation_sets(sets: Mapping[str, EvaluationSet]) -> str:
    rows = [
        (name, [f"{one.texts:,}", f"{one.too_short:,}", f"{one.documents:,}"]) for name, one in sets.items()
    ]
    columns = ["evaluation set", "texts", "too short to be sought", "documents with its text"]
    return "<h2>Evaluation sets</h2>\n" + _numbers(
        columns, rows, "What was looked for, and found", shown=True
    )


def _fertility(fertility: TokenizerReport) -> str:
    parts = [
        *((f"language {name}", one) for name, one in fertility.by_language.items()),
        *((f"source {name}", one) for name, one in fertility.by_source.items()),
        ("all", fertility.overall),
    ]
    rows = [
        (
            name,
            [f"{one.documents:,}", f"{one.tokens:,}", shown(one.bytes_per_token, ".2f")]
            + [shown(one.tokens_per_word, ".2f"), shown(one.tokens_per_character, ".3f")]
            + [
                "-" if one.byte_token_share is None else percent(one.byte_token_share),
                f"{one.lossy_documents:,}",
            ],
        )
        for name, one in parts
    ]
    columns = ["", "documents", "tokens", "bytes a token", "tokens a word", "tokens a character"]
    columns += ["bytes among tokens", "lossy documents"]
    return (
        f"<h2>Tokenizer</h2>\n<p class=quiet>Tried on a sample of {fertility.overall.documents:,} documents. "
        f"Of {fertility.pieces:,} pieces {fertility.unused_pieces:,} never came in it.</p>\n"
        + _numbers(columns, rows, "What text takes", shown=True)
    )


def _legend(parts: Sequence[str], colours: Mapping[str, str]) -> str:
    named = [part for part in parts if part in colours]
    items = [(part, colours[part]) for part in named] + (
        [("other", "other")] if len(named) < len(parts) else []
    )
    told = "".join(f'<li><span class="back-{colour}"></span>{escape(part)}</li>' for part, colour in items)
    return f"<ul class=legend>{told}</ul>\n"


def _figure(picture: str, caption: str) -> str:
    told = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{picture}{told}</figure>\n"


def _numbers(
    columns: Sequence[str],
    rows: Iterable[tuple[str, Sequence[str]]],
    caption: str,
    *,
    shown: bool = False,
) -> str:
    """A table, folded away where a picture shows the same."""
    head = "".join(
        f'<th scope="col"{" class=left" if number == 0 else ""}>{escape(name)}</th>'
        for number, name in enumerate(columns)
    )
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for name, cells in rows
    )
    opened = " open" if shown else ""
    return (
        f"<details{opened}><summary>{escape(caption)}, as a table</summary><div class=scroll><table>"
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        "</details>\n"
    )
