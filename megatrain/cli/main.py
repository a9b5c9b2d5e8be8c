"""The command line: which commands there are, their arguments, and how an error ends them."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import megatrain
from megatrain.cli import checkpoints, commands, data_arguments
from megatrain.cli.parser import Parser, Run, Verbs, command, config_arguments, group, size
from megatrain.errors import FailedWork, UserError
from megatrain.output import Noted, guarded, noted_output, open_standard_files, reason, require_utf8
from megatrain.settings.paths import path, path_text


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 failed, 2 wrong call or input, 75 preempted and saved, 130 interrupted."""
    open_standard_files()
    if arguments is None:
        require_utf8(os.environ)
    with guarded(out=False), noted_output() as output:
        try:
            return _printed(_run(arguments, output), output)
        except SystemExit as error:  # of argparse, which has said why
            raise SystemExit(_printed(error.code if isinstance(error.code, int) else 2, output)) from None


def _run(arguments: Sequence[str] | None, output: Noted) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    parsed = _parse(arguments)
    run: Run = parsed.run
    try:
        return run(parsed)
    except (UserError, FailedWork) as error:
        return _say(str(error), error.exit_code)
    except KeyboardInterrupt:
        print("megatrain: interrupted", file=sys.stderr)
        return 130
    except OSError as error:  # a disk or a folder that fails where nobody looked before
        if output.error is not None:
            return FailedWork.exit_code  # `_printed` says so
        return _say(f"{error.filename or parsed.command}: {error.strerror or error}", FailedWork.exit_code)


def _printed(code: int, output: Noted) -> int:
    """The exit code of a command: what it found is not there where standard output did not take it."""
    with suppress(OSError, ValueError):
        output.flush()
    error = output.error
    if error is None:
        return code
    return _say(f"standard output: {reason(error)}; the result is incomplete", code or FailedWork.exit_code)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    parsed, rest = parser.parse_known_args(arguments)
    # argparse gives the overrides away at the first option: those that stand after it are here.
    if rest and (not hasattr(parsed, "overrides") or any(text.startswith("-") for text in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        parsed.overrides = [*parsed.overrides, *rest]
    return parsed


def _say(message: str, exit_code: int) -> int:
    """One line, whatever a library has put into the message."""
    print("megatrain:", " ".join(line.strip() for line in message.splitlines()), file=sys.stderr)
    return exit_code


def _parser() -> Parser:
    parser = Parser(
        prog="megatrain",
        description="Pretrain large language models: raw text to a model that can be served.",
    )
    parser.epilog = "example: megatrain train configs/quickstart.yaml"
    parser.add_argument("--version", action="version", version=megatrain.__version__)
    verbs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _data_commands(verbs)
    _run_commands(verbs)
    _model_commands(verbs)
    return parser


def _data_commands(verbs: Verbs) -> None:
    prepare = command(
        verbs,
        "prepare",
        commands.prepare,
        "Raw text to token shards.",
        "prepare configs/data/quickstart.yaml where.workers=2",
    )
    config_arguments(prepare)
    data_arguments.add_commands(verbs)


def _run_commands(verbs: Verbs) -> None:
    check = command(
        verbs,
        "check",
        commands.check,
        "Validate config, data, layout and disk.",
        "check configs/quickstart.yaml",
    )
    config_arguments(check)
    check.add_argument(
        "--ranks", type=size, help="the number of ranks to check for (default: this machine's)"
    )
    train = command(
        verbs,
        "train",
        commands.train,
        "Train on this machine; goes on from the newest checkpoint of run.folder.",
        "train configs/quickstart.yaml train.steps=200",
    )
    config_arguments(train)
    _submit_command(verbs)
    rehearsal = command(
        verbs,
        "verify-resume",
        commands.verify_resume,
        "Prove that a run resumes: its first steps unbroken, and again killed and resumed, must agree.",
        "verify-resume configs/quickstart.yaml --layouts tp2-dp1-zero3 --before 6 --after 4",
    )
    config_arguments(rehearsal)
    rehearsal.add_argument(
        "--layouts",
        nargs="+",
        default=[],
        metavar="tpT-dpD-zeroZ",
        help="resume on these as well as on the config's own",
    )
    rehearsal.add_argument(
        "--before", type=int, default=6, help="steps before the checkpoint (default: %(default)s)"
    )
    rehearsal.add_argument("--after", type=int, default=4, help="steps after it (default: %(default)s)")
    rehearsal.add_argument("--folder", type=path, help="where to work (default: RUN-verify-resume)")
    rehearsal.add_argument(
        "--tolerance",
        type=float,
        help="relative, for losses and gradient norms on another layout, which sums in another order "
        "(default: 1e-5 for fp32, 1e-2 for bf16)",
    )
    rehearsal.add_argument("--keep", action="store_true", help="leave the runs in the folder")
    report = command(
        verbs,
        "report",
        commands.report,
        "Where a run's time went, what ranks waited for each other, and its loss curve as a picture.",
        "report runs/quickstart",
    )
    report.add_argument("folder", type=path, metavar="RUN")
    _checkpoint_commands(verbs)


def _submit_command(verbs: Verbs) -> None:
    submit = command(
        verbs,
        "submit",
        commands.submit,
        "Check a run and put it into SLURM's queue.",
        "submit configs/llama-1b.yaml --nodes 4 --gpus-per-node 8 --time 24:00:00",
    )
    config_arguments(submit)
    submit.add_argument("--nodes", type=int, required=True)
    submit.add_argument("--time", required=True, help="limit of one stretch, as sbatch takes it")
    ranks = submit.add_mutually_exclusive_group()
    ranks.add_argument("--gpus-per-node", type=int, metavar="G", help="one rank for each")
    ranks.add_argument(
        "--ranks-per-node", type=int, metavar="R", help="without GPUs (default: cluster.processes)"
    )
    submit.add_argument(
        "--cpus-per-rank",
        type=int,
        metavar="C",
        help="cores (default: 8 beside a GPU, else train.threads or 1)",
    )
    submit.add_argument("--partition", metavar="P")
    submit.add_argument("--account", metavar="A")
    submit.add_argument(
        "--signal-before",
        type=int,
        default=300,
        metavar="S",
        help="seconds before the limit at which the ranks save and stop (default: %(default)s)",
    )
    submit.add_argument("--dry-run", action="store_true", help="print the script and the sbatch command")


def _checkpoint_commands(verbs: Verbs) -> None:
    kinds = group(
        verbs,
        "checkpoint",
        "Look at a run's checkpoints, compare, clear away.",
        "checkpoint ls runs/quickstart",
    )
    for name, run, help_ in (
        ("ls", checkpoints.ls, "Step, time, size, losses, layout of each, and whether it is whole."),
        ("verify", checkpoints.verify, "Re-hash every file of each."),
    ):
        parser = command(kinds, name, run, help_, f"checkpoint {name} runs/quickstart")
        parser.add_argument("folder", type=path, metavar="RUN", help="a run, or one checkpoint")
    diff = command(
        kinds,
        "diff",
        checkpoints.diff,
        "What differs between two checkpoints: state, and the tensors that are furthest apart.",
        "checkpoint diff runs/a runs/b/checkpoints/step-00001000",
    )
    for name in ("first", "second"):
        diff.add_argument(
            name,
            type=path_text,
            metavar="A" if name == "first" else "B",
            help="a checkpoint, or a run's newest",
        )
    diff.add_argument("--most", type=size, default=20, help="tensors that are printed (default: %(default)s)")
    prune = command(
        kinds,
        "prune",
        checkpoints.prune,
        "Remove checkpoints that no rule keeps, and older folders that were never committed.",
        "checkpoint prune runs/quickstart --keep 1 --dry-run",
    )
    prune.add_argument("folder", type=path, metavar="RUN")
    prune.add_argument("--keep", type=int, required=True, help="the newest so many")
    prune.add_argument("--keep-every", type=int, help="those whose step is a multiple of this")
    prune.add_argument(
        "--keep-best",
        type=int,
        default=0,
        help="so many with the lowest validation loss (default: %(default)s)",
    )
    prune.add_argument("--dry-run", action="store_true", help="only say what would go")


def _model_commands(verbs: Verbs) -> None:
    evaluate = command(
        verbs,
        "evaluate",
        commands.evaluate,
        "Loss, perplexity and bits per byte on held-out text, for each source.",
        "evaluate runs/quickstart --split test --baselines",
    )
    evaluate.add_argument("where", type=path, metavar="RUN", help="a run, a checkpoint or an export")
    evaluate.add_argument(
        "--split", choices=("train", "validation", "test"), default="test", help="default: %(default)s"
    )
    evaluate.add_argument(
        "--config", type=path, help="that names the data, for an export or another model without its run"
    )
    evaluate.add_argument("--windows", type=size, help="at most so many windows of each source")
    evaluate.add_argument("--baselines", action="store_true", help="also n-gram models of the same tokens")
    export = command(
        verbs,
        "export",
        commands.export,
        "To Hugging Face safetensors, verified.",
        "export runs/quickstart --out exported",
    )
    export.add_argument("where", type=path, metavar="RUN", help="a run or a checkpoint")
    export.add_argument("--out", type=path, help="default: RUN/export")
    export.add_argument(
        "--dtype", choices=("fp32", "bf16", "fp16"), help="default: export.dtype of the run's config"
    )
    export.add_argument("--tokenizer", type=path, help="default: the one beside the run's shards")
    export.add_argument(
        "--verify",
        choices=("logits", "tokenizer"),
        default="logits",
        help="what is compared with the original (default: %(default)s)",
    )
    generate = command(
        verbs,
        "generate",
        commands.generate,
        "Text that goes on from a prompt.",
        "generate runs/quickstart --prompt 'To be, or not'",
    )
    generate.add_argument("where", type=path, metavar="RUN", help="a run, a checkpoint or an export")
    generate.add_argument("--prompt", action="append", required=True, help="can be given several times")
    generate.add_argument("--max-new-tokens", type=int, default=100, help="default: %(default)s")
    generate.add_argument(
        "--temperature", type=float, default=0.8, help="0 takes the likeliest token (default: %(default)s)"
    )
    generate.add_argument("--top-p", type=float, default=0.95, help="default: %(default)s")
    generate.add_argument("--seed", type=int, default=0, help="default: %(default)s")
