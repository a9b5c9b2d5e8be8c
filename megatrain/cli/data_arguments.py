"""The arguments of `megatrain data ...`."""

from __future__ import annotations

from megatrain.cli import datasets, training_data
from megatrain.cli.parser import Verbs, command, count, group, size
from megatrain.settings.paths import path, path_text

_FORMATS = ("megatron", "mds", "parquet")


def add_commands(verbs: Verbs) -> None:
    """Add them to the command line."""
    kinds = group(
        verbs, "data", "Look at a finished dataset, check and convert it.", "data inspect data/quickstart"
    )
    _inspect_command(kinds)
    verify = command(
        kinds,
        "verify",
        datasets.verify,
        "Hash every shard again and check what is in it; a line for each fault.",
        "data verify data/quickstart --quick",
    )
    verify.add_argument("folder", type=path, metavar="DATASET", help="a dataset, or one of its splits")
    verify.add_argument("--quick", action="store_true", help="manifests, tokenizer and sizes alone")
    verify.add_argument("--workers", type=count, default=0, help="processes (default: as many as it needs)")
    diff = command(
        kinds,
        "diff",
        datasets.diff,
        "What differs between two datasets: tokenizer, config, totals, documents.",
        "data diff data/quickstart data/imported",
    )
    for name in ("first", "second"):
        diff.add_argument(name, type=path, metavar="A" if name == "first" else "B")
    diff.add_argument(
        "--examples", type=count, default=3, metavar="N", help="ids named of each kind (default: %(default)s)"
    )
    stats = command(
        kinds,
        "stats",
        datasets.stats,
        "Sizes, lengths, languages, and what was dropped from raw to kept; as tables, a page or JSON.",
        "data stats data/quickstart --html data/stats.html",
    )
    stats.add_argument("folder", type=path, metavar="DATASET", help="a dataset, or one of its splits")
    stats.add_argument("--html", type=path, metavar="FILE", help="also a page with pictures, in one file")
    stats.add_argument("--json", action="store_true", help="JSON in place of tables, with the config")
    tokenizer = command(
        kinds,
        "tokenizer",
        datasets.tokenizer,
        "How many tokens the documents take, by language and source; unused and longest pieces.",
        "data tokenizer data/quickstart --tokenizer ../llama/tokenizer.json",
    )
    tokenizer.add_argument("folder", type=path, metavar="DATASET", help="a dataset, or one of its splits")
    tokenizer.add_argument("--tokenizer", type=path, metavar="PATH", help="another one than its own")
    tokenizer.add_argument(
        "--documents", type=size, default=2000, metavar="N", help="to look at (default: %(default)s)"
    )
    tokenizer.add_argument("--seed", type=count, default=0, help="of the draw (default: %(default)s)")
    tokenizer.add_argument("--json", action="store_true", help="JSON in place of the table")
    _import_command(kinds)
    _export_command(kinds)
    _training_commands(kinds)
    _perplexity_command(kinds)


def _perplexity_command(kinds: Verbs) -> None:
    parser = command(
        kinds,
        "perplexity-model",
        datasets.perplexity_model,
        "Train the model of good text that the step perplexity judges by.",
        "data perplexity-model good/*.jsonl.gz --out good.npz --calibrate crawl/sample.jsonl",
    )
    parser.add_argument(
        "files", type=path_text, nargs="+", metavar="FILE", help="good text: jsonl, txt, parquet, arrow, wet"
    )
    parser.add_argument("--out", type=path, required=True, metavar="MODEL", help="the file to write")
    parser.add_argument(
        "--calibrate", type=path_text, nargs="+", default=[], metavar="FILE", help="percentiles are of these"
    )
    parser.add_argument("--text-column", default="text", help="default: %(default)s")
    parser.add_argument(
        "--order",
        type=int,
        choices=range(1, 8),
        default=3,
        metavar="N",
        help="words in an n-gram, 1 to 7 (default: %(default)s)",
    )
    parser.add_argument(
        "--max-words", type=size, default=10_000_000, help="60 bytes of memory each (default: %(default)s)"
    )


def _training_commands(kinds: Verbs) -> None:
    samples = command(
        kinds,
        "samples",
        training_data.samples,
        "The samples of one step's global batch: source, epoch, window, and where in the shards it lies.",
        "data samples configs/quickstart.yaml --step 120",
    )
    samples.add_argument("where", type=path, metavar="RUN", help="the folder of a run, or a config")
    samples.add_argument("overrides", nargs="*", default=[], metavar="section.key=value")
    samples.add_argument("--step", type=size, required=True, help="counted from 1")
    pack = command(
        kinds,
        "pack",
        training_data.pack,
        "Plan rows of whole documents, for data.packing=best_fit; the plan lies beside the shards.",
        "data pack data/quickstart --sequence-length 1024",
    )
    pack.add_argument("folder", type=path, metavar="FOLDER", help="a dataset, whose train split is meant")
    pack.add_argument("--sequence-length", type=size, required=True, help="data.sequence_length of the run")
    pack.add_argument("--workers", type=count, default=0, help="processes (default: one a core)")


def _inspect_command(kinds: Verbs) -> None:
    parser = command(
        kinds,
        "inspect",
        datasets.inspect,
        "Sizes and some documents; or one document, one window, where a run's sample comes from.",
        "data inspect configs/quickstart.yaml --sample 8123",
    )
    parser.add_argument(
        "where", type=path, metavar="DATASET", help="with --sample: the config or the folder of a run"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="section.key=value",
        help="of the run's config, with --sample",
    )
    parser.add_argument(
        "--documents", type=count, default=3, metavar="N", help="at most so many (default: %(default)s)"
    )
    parser.add_argument("--seed", type=count, default=0, help="of the documents drawn (default: %(default)s)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--document", metavar="ID", help="the document with this id, or the beginning of one")
    what.add_argument("--containing", metavar="TEXT", help="documents with this text; decodes all until then")
    what.add_argument("--window", metavar="SPLIT/SOURCE:N", help="window N of a source, decoded")
    what.add_argument("--sample", type=count, metavar="N", help="sample N of a run: where it comes from")
    parser.add_argument(
        "--sequence-length", type=size, default=1024, metavar="S", help="of --window (default: %(default)s)"
    )


def _import_command(kinds: Verbs) -> None:
    parser = command(
        kinds,
        "import",
        datasets.import_,
        "Tokens that another tool made to a dataset.",
        "data import train/web=corpus_text_document --format megatron --tokenizer data/tok --out data/web",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="SPLIT/SOURCE=PATH",
        help="a prefix of .bin and .idx, a folder of MDS, a parquet file or folder; SPLIT=PATH where the "
        "records have a column `source`",
    )
    parser.add_argument("--format", choices=_FORMATS, required=True)
    parser.add_argument(
        "--tokenizer", type=path, required=True, metavar="FOLDER", help="that made the tokens; or a dataset"
    )
    parser.add_argument("--out", type=path, required=True, metavar="DATASET", help="a new folder")
    parser.add_argument(
        "--cut",
        choices=("record", "eos"),
        default="record",
        help="a record is a document (default), or documents end at each EOS: for packed windows",
    )
    parser.add_argument("--column", default="tokens", help="of MDS and parquet (default: %(default)s)")
    parser.add_argument(
        "--bytes-dtype",
        choices=("uint16", "uint32", "int32", "int64"),
        help="of an MDS column of plain bytes",
    )
    parser.add_argument(
        "--max-tokens", type=size, default=100_000_000, help="of a shard (default: %(default)s)"
    )
    parser.add_argument("--workers", type=count, default=0, help="processes (default: one a core)")


def _export_command(kinds: Verbs) -> None:
    parser = command(
        kinds,
        "export",
        datasets.export,
        "A dataset, or one of its splits, for other tools.",
        "data export data/quickstart --format megatron --out exported",
    )
    parser.add_argument("folder", type=path, metavar="DATASET")
    parser.add_argument("--format", choices=_FORMATS, required=True)
    parser.add_argument("--out", type=path, required=True, metavar="FOLDER", help="a new folder")
