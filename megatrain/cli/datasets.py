"""`megatrain data ...`: look at finished datasets, check, compare and convert them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from megatrain.errors import FailedWork, require

if TYPE_CHECKING:
    from data_tools.datasets.documents import PlacedDocument


def inspect(arguments: argparse.Namespace) -> int:
    from data_tools.datasets.documents import documents_with_id, documents_with_text, random_documents
    from data_tools.datasets.overview import statistics, table
    from data_tools.datasets.shards import open_splits

    if arguments.sample is not None:
        return _inspect_sample(arguments)
    require(not arguments.overrides, f"{' '.join(arguments.overrides)}: settings belong to --sample alone")
    splits = open_splits(arguments.where)
    if arguments.window is not None:
        return _inspect_window(arguments)
    if arguments.document is not None:
        found = list(documents_with_id(splits, arguments.document))
        require(found, f"{arguments.where}: no document has an id that begins with {arguments.document}")
    elif arguments.containing is not None:
        require(arguments.documents, "--documents (0): nothing is looked for; give 1 or more")
        found = list(documents_with_text(splits, arguments.containing, arguments.documents))
        require(found, f"{arguments.where}: no document contains {arguments.containing!r}")
    else:
        print(table(statistics(splits)))
        for name, dataset in splits.items():
            print(f"fingerprint of {name}: {dataset.fingerprint}")
        found = list(random_documents(splits, arguments.documents, arguments.seed))
    whole = arguments.document is not None
    for document in found:
        _print_document(document, whole=whole)
    return 0


def verify(arguments: argparse.Namespace) -> int:
    from data_tools.verify import faults, summary

    count = 0
    for fault in faults(arguments.folder, quick=arguments.quick, workers=arguments.workers):
        print(fault, flush=True)
        count += 1
    if count:
        told = "1 fault; it" if count == 1 else f"{count} faults; each"
        raise FailedWork(f"{arguments.folder}: {told} is named above")
    print(summary(arguments.folder, quick=arguments.quick))
    return 0


def diff(arguments: argparse.Namespace) -> int:
    from data_tools.diff import diff

    print(f"A {arguments.first}\nB {arguments.second}")
    found = diff(arguments.first, arguments.second, examples=arguments.examples)
    print(found.text())
    return 0 if found.equal else 1


def stats(arguments: argparse.Namespace) -> int:
    from data_tools.stats.page import page
    from data_tools.stats.report import report
    from megatrain.durable import write_durably

    if arguments.html is not None:
        home = arguments.html.absolute().parent
        require(home.is_dir(), f"--html {arguments.html}: there is no folder {home}; make it first")
        require(not arguments.html.is_dir(), f"--html {arguments.html}: is a folder; name a file")
    found = report(arguments.folder)
    print(found.json() if arguments.json else found.text())
    if arguments.html is not None:
        write_durably(arguments.html, page(found).encode())
    return 0


def tokenizer(arguments: argparse.Namespace) -> int:
    import json

    from data_tools.tokenizer.sampled_report import report_on

    found = report_on(arguments.folder, arguments.tokenizer, arguments.documents, arguments.seed)
    print(json.dumps(found.record(), ensure_ascii=False, indent=1) if arguments.json else found.text())
    return 0


def perplexity_model(arguments: argparse.Namespace) -> int:
    from data_tools.perplexity_model import make_model

    model = make_model(
        arguments.files,
        arguments.out,
        calibrating=arguments.calibrate,
        text_column=arguments.text_column,
        order=arguments.order,
        max_words=arguments.max_words,
    )
    low, middle, high = (model.percentiles[at] for at in (10, 50, 90))
    print(f"{arguments.out}: perplexity {low:.0f} at 10 %, {middle:.0f} at 50 %, {high:.0f} at 90 %")
    return 0


def import_(arguments: argparse.Namespace) -> int:
    from data_tools.convert.import_dataset import ImportConfig, import_dataset
    from data_tools.convert.inputs import Place

    config = ImportConfig(
        inputs=[Place.parse(text) for text in arguments.inputs],
        format=arguments.format,
        tokenizer=arguments.tokenizer,
        output=arguments.out,
        cut=arguments.cut,
        column=arguments.column,
        bytes_dtype=arguments.bytes_dtype,
        max_tokens=arguments.max_tokens,
        workers=arguments.workers,
    )
    for split, manifest in import_dataset(config).items():
        documents = sum(shard.documents for shard in manifest.shards)
        tokens = sum(shard.tokens for shard in manifest.shards)
        print(f"{split}: {documents:,} documents, {tokens:,} tokens, fingerprint {manifest.fingerprint}")
    return 0


def export(arguments: argparse.Namespace) -> int:
    from data_tools.convert.export_dataset import export_dataset

    for path in export_dataset(arguments.folder, arguments.format, arguments.out):
        print(path)
    return 0


def _inspect_window(arguments: argparse.Namespace) -> int:
    from data_tools.datasets.origin import origin, span_of_window
    from data_tools.datasets.shards import open_splits

    place, colon, number = arguments.window.rpartition(":")
    split, _, source = place.partition("/")
    splits = open_splits(arguments.where)
    require(
        colon and number.isdecimal() and split in splits and source in splits[split].sources,
        f"--window {arguments.window!r} is not of the form SPLIT/SOURCE:N with one of "
        + ", ".join(f"{name}/{one}" for name, dataset in splits.items() for one in dataset.sources),
    )
    span = span_of_window(splits[split], source, int(number), arguments.sequence_length)
    print(origin(splits[split], [span]).text())
    return 0


def _inspect_sample(arguments: argparse.Namespace) -> int:
    import numpy as np

    from data_tools.datasets.origin import Span, origin
    from megatrain.config import load_config
    from megatrain.data.listing import listed
    from megatrain.data.mixture import TokenMixture
    from megatrain.data.training import TrainingSamples
    from megatrain.state import RunFolder

    where = RunFolder(arguments.where).config if arguments.where.is_dir() else arguments.where
    require(where.is_file(), f"{arguments.where}: with --sample, name the config of a run, or its folder")
    config = load_config(where, arguments.overrides)
    samples = TrainingSamples(TokenMixture.open(config.data, "train"), config.data)
    (found,) = listed(samples, samples.order(config.run.seed), np.array([arguments.sample]))
    dataset, pieces = samples.locate(found.source, np.array([found.window]))
    taken = config.train.steps * config.train.global_batch
    note = "" if found.sample < taken else f", which ends before it: train.steps take {taken:,} samples"
    print(
        f"sample     {found.sample:,} of {where}{note}\n"
        f"source     {found.source}, epoch {found.epoch:,}, "
        f"window {found.window:,} of {samples.sizes[found.source]:,}"
    )
    runs = zip(pieces.shard.tolist(), pieces.start.tolist(), pieces.length.tolist(), strict=True)
    print(origin(dataset, [Span(shard, start, start + length) for shard, start, length in runs]).text())
    return 0


def _print_document(document: PlacedDocument, *, whole: bool) -> None:
    from data_tools.datasets.lineage import lineage_of
    from data_tools.datasets.origin import shortened

    print(
        f"--- {document.doc_id.hex()}, {document.split}/{document.source}, {document.tokens:,} tokens, "
        f"{document.shard.name} row {document.row:,}"
    )
    rows = range(document.row, document.row + 1)
    if whole and (known := lineage_of(document.shard, rows, [document.doc_id])):
        print(known[0])
    print(document.text if whole else shortened(document.text, 600))
