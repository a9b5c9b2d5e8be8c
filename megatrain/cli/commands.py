"""What each command does: call one function and print what it found. Heavy imports wait until they are
needed."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from megatrain.errors import FailedWork, require
from megatrain.output import guarded, say

if TYPE_CHECKING:
    from megatrain.state import RunFolder
    from megatrain.train.preflight import Prepared


def prepare(arguments: argparse.Namespace) -> int:
    from data_tools.prepare import main

    return main([str(arguments.config), *arguments.overrides])


def check(arguments: argparse.Namespace) -> int:
    from megatrain.cluster.supervisor import planned_world
    from megatrain.config import load_config, to_yaml
    from megatrain.train.begun import settled
    from megatrain.train.passes import passes_lines
    from megatrain.train.preflight import prepare_run

    config = settled(load_config(arguments.config, arguments.overrides))
    world = arguments.ranks if arguments.ranks is not None else planned_world(config)
    prepared = prepare_run(config, world)
    derived = prepared.derived
    print(
        to_yaml(
            config,
            {
                "ranks": world,
                "data-parallel ranks": derived.data_parallel,
                "micro-batches a step": derived.accumulation,
                "tokens a step": derived.tokens_per_step,
                "windows": dict(zip(prepared.order.sources, prepared.order.sizes, strict=True)),
            },
        )
    )
    for line in passes_lines(prepared.passes, config.train.steps, config.train.global_batch):
        print(f"# {line}")
    _warn_of(prepared)
    print(f"# {arguments.config}: good for {world} ranks")  # so that the whole can be read as a config
    return 0


def train(arguments: argparse.Namespace) -> int:
    from megatrain.cluster.launchers import require_ranks_fit
    from megatrain.cluster.supervisor import planned_world, supervise
    from megatrain.config import load_config
    from megatrain.train.preflight import prepare_run

    config = load_config(arguments.config, arguments.overrides)
    world = planned_world(config)
    if config.cluster.hostfile is None:
        require_ranks_fit(world, "the run")
    _warn_of(prepare_run(config, world))  # what is wrong is said before any rank starts
    with guarded(out=True):  # what the run prints is no result
        return supervise(config, arguments.config.resolve(), arguments.overrides)


def submit(arguments: argparse.Namespace) -> int:
    from megatrain.cluster.slurm import Request, plan_job, queue
    from megatrain.config import load_config
    from megatrain.state import RunFolder
    from megatrain.train.preflight import prepare_run

    config = load_config(arguments.config, arguments.overrides)
    request = Request.create(
        config,
        nodes=arguments.nodes,
        time=arguments.time,
        ranks_per_node=arguments.ranks_per_node,
        gpus_per_node=arguments.gpus_per_node,
        cpus_per_rank=arguments.cpus_per_rank,
        partition=arguments.partition,
        account=arguments.account,
        signal_before_s=arguments.signal_before,
    )
    _warn_of(prepare_run(config, request.ranks))  # what is wrong is said before anything waits in a queue
    job = plan_job(config, arguments.config, arguments.overrides, request)
    if arguments.dry_run:
        print(f"{job.script}# {shlex.join(job.command)}")
        return 0
    number = queue(job)
    stop = RunFolder(Path(config.run.folder)).stop_file
    print(
        f"job {number}: {request.nodes} nodes, {request.ranks} ranks, {request.time} a stretch\n"
        f"  output  {job.output_of(number)}\n"
        f"  follow  squeue -j {number}; tail -F {shlex.quote(job.output_of(number))}\n"
        f"  stop    touch {shlex.quote(str(stop))} (saves first), or scancel {number}\n"
        "  resume  by itself after a limit, a preemption or a lost node; else the same command again"
    )
    return 0


def verify_resume(arguments: argparse.Namespace) -> int:
    from megatrain.cluster.rehearsal import first_difference, parse_layout, plan_rehearsal, rehearse, table
    from megatrain.config import load_config

    plan = plan_rehearsal(
        load_config(arguments.config, arguments.overrides),
        [parse_layout(text) for text in arguments.layouts],
        before=arguments.before,
        after=arguments.after,
        folder=arguments.folder,
        tolerance=arguments.tolerance,
        keep=arguments.keep,
    )
    outcomes = rehearse(plan)
    print(table(outcomes))
    difference = first_difference(outcomes)
    if difference is not None:
        raise FailedWork(f"{difference}; the runs are in {plan.folder}")
    return 0


def report(arguments: argparse.Namespace) -> int:
    from megatrain.observe.balance import balance
    from megatrain.observe.history import read_history
    from megatrain.observe.ledger import ledger_of, table
    from megatrain.observe.report import draw_loss_curve, passes
    from megatrain.state import RunFolder

    folder = RunFolder(arguments.folder)
    require(folder.metrics.is_file(), f"{folder.root}: no metrics.jsonl there; name the folder of a run")
    history = read_history(folder)
    print(table(ledger_of(history)))
    for line in (*balance(history), *passes(history)):
        print(line)
    if history.steps.stale:
        print(f"{history.steps.stale:,} lines do not count: their attempt had lost the run to a later one")
    try:
        picture = draw_loss_curve(folder, _baselines(folder), history)
    except OSError as error:  # a folder of somebody else's: the report is there all the same
        _note(f"{folder.loss_curve}: cannot be written ({error.strerror or error}); there is no picture")
    else:
        print(picture)
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    from megatrain.config import load_config
    from megatrain.export.score import score, write_scores
    from megatrain.state import RunFolder

    config = load_config(arguments.config) if arguments.config else None
    scores = score(
        arguments.where,
        arguments.split,
        config=config,
        windows=arguments.windows,
        baselines=arguments.baselines,
        note=_note,
    )
    _warn(scores.source.damaged)
    folder = RunFolder(arguments.where)
    # Of a part, or of other data, they are not the run's own, which `report` shows.
    if folder.config.exists() and arguments.windows is None and config is None:
        path = folder.scores(arguments.split)
        try:
            write_scores(scores, path)
        except OSError as error:  # the scores are printed all the same
            _note(
                f"{path}: cannot be written ({error.strerror or error}); `report` will not show these scores"
            )
    print(f"{scores.source.folder} on the {scores.split} split")
    width = max(map(len, scores.results))
    sources = list(next(iter(scores.results.values())))
    for source in sources:
        first = scores.results["model"][source]
        print(
            f"\n{source}: {first.tokens:,} tokens, {first.bytes:,} bytes, "
            + (f"{first.windows:,} of {first.of_windows:,} windows" if first.of_windows else "no window")
        )
        for name, by_source in scores.results.items():
            result = by_source[source]
            if result.loss is None or result.perplexity is None:
                continue  # an average over nothing
            bits = "-" if result.bits_per_byte is None else f"{result.bits_per_byte:.4f}"
            print(
                f"  {name:<{width}}  loss {result.loss:7.4f}  perplexity {result.perplexity:9.2f}  "
                f"bits per byte {bits}"
            )
    return 0


def export(arguments: argparse.Namespace) -> int:
    from megatrain.export.run import export_run

    done = export_run(
        arguments.where,
        arguments.out,
        dtype=arguments.dtype,
        tokenizer_folder=arguments.tokenizer,
        verify=arguments.verify,
    )
    _warn(done.source.damaged)
    result = done.result
    print(f"{done.source.folder} exported to {result.folder}")
    print(f"  {result.parameters:,} parameters, {result.weight_bytes / 2**20:.1f} MiB")
    print(f"  tokenizer: identical on {result.tokenizer_texts:,} texts")
    if result.verified is not None:
        print(
            f"  logits: largest difference {result.verified.max_difference:.1e} over "
            f"{result.verified.positions:,} positions, same first choice at "
            f"{result.verified.top1_agreement:.2%}"
        )
    return 0


def generate(arguments: argparse.Namespace) -> int:
    from megatrain.export.generate import continuations
    from megatrain.export.source import find_source

    source = find_source(arguments.where)
    _warn(source.damaged)
    texts = continuations(
        source,
        arguments.prompt,
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        seed=arguments.seed,
        note=_note,
    )
    for prompt, text in zip(arguments.prompt, texts, strict=True):
        print(f"{prompt}{text}\n")
    return 0


def _baselines(folder: RunFolder) -> dict[str, float]:
    """Bits per byte of the model and the n-gram models that `evaluate --baselines` has found, if it ran."""
    from megatrain.observe.scores import read_scores

    for split in ("validation", "test"):
        path = folder.scores(split)
        if not path.exists():
            continue
        try:
            bits = read_scores(path)
        except FailedWork as error:
            _note(f"{error}; the picture is without it")
            continue
        return {f"{who}, {split} split": float(value) for who, value in bits.items()}
    return {}


def _warn_of(prepared: Prepared) -> None:
    """Print what a person should know of the data before the run begins."""
    for line in prepared.warnings:
        print(f"megatrain: warning: {line}", file=sys.stderr)


def _warn(damaged: tuple[str, ...]) -> None:
    for what in damaged:
        _note(f"passed over {what}")


def _note(text: str) -> None:
    """On stderr: nothing that makes the command fail."""
    say(f"megatrain: {text}")
