"""Rules that tie several keys together; each names the key, the value, the rule and the mend."""

from __future__ import annotations

import os

from megatrain.config.data_rules import check_data
from megatrain.config.tree import Config
from megatrain.errors import require
from megatrain.faults import ACTIONS, NUMBERS, TRAINING


def check_rules(config: Config) -> None:
    """Raise UserError for the first rule that the config breaks."""
    _check_model(config)
    _check_training(config)
    check_data(config.data)
    _check_checkpoint(config)
    _check_cluster(config)
    _check_faults(config)
    spikes = config.resilience.spikes
    require(
        spikes.warmup_updates <= spikes.window,
        f"resilience.spikes.warmup_updates ({spikes.warmup_updates}) must not be above "
        f"resilience.spikes.window ({spikes.window}): so many are never kept",
    )
    _check_signals(config)
    comms = config.deepspeed.comms_logger
    require(
        comms is None or comms.enabled is False or bool(comms.verbose),
        "deepspeed.comms_logger needs verbose: true; otherwise DeepSpeed keeps its figures to itself",
    )


def _check_signals(config: Config) -> None:
    signals, save = config.resilience.signals, config.resilience.save_signal
    require(
        save not in signals,
        f"resilience.save_signal ({save}) is one of resilience.signals ({', '.join(signals)}): it would save "
        "and never stop; choose another, or null",
    )


_LOWER = {
    "model.heads": "lower parallel.tensor",
    "model.kv_heads": "lower parallel.tensor: a head of keys and values is not replicated over tensor ranks",
}


def _check_model(config: Config) -> None:
    model, tensor = config.model, config.parallel.tensor
    require(
        model.heads % model.kv_heads == 0,
        f"model.heads ({model.heads}) must be a multiple of model.kv_heads ({model.kv_heads})",
    )
    require(model.head_dim % 2 == 0, f"model.head_dim ({model.head_dim}) must be even: RoPE turns pairs")
    scaling = model.rope.llama3
    require(
        scaling is None or scaling.low_freq_factor < scaling.high_freq_factor,
        f"model.rope.llama3.low_freq_factor ({scaling and scaling.low_freq_factor}) must be below "
        f"high_freq_factor ({scaling and scaling.high_freq_factor})",
    )
    for key, value in (
        ("model.heads", model.heads),
        ("model.kv_heads", model.kv_heads),
        ("model.ffn_dim", model.ffn_dim),
        ("model.vocab_size", model.vocab_size),
    ):
        up = -(-value // tensor) * tensor
        require(
            value % tensor == 0,
            f"{key} ({value}) must be a multiple of parallel.tensor ({tensor}); "
            + (f"pad it to {up}" if key in ("model.vocab_size", "model.ffn_dim") else _LOWER[key]),
        )


def _check_training(config: Config) -> None:
    train, schedule = config.train, config.schedule
    require(
        config.parallel.zero >= 1,
        "parallel.zero (0) must be 1, 2 or 3: with stage 0 DeepSpeed's gradient norm is absent or wrong",
    )
    require(
        train.micro_batch <= train.global_batch,
        f"train.micro_batch ({train.micro_batch}) must not be above "
        f"train.global_batch ({train.global_batch}); lower it",
    )
    require(
        schedule.warmup_steps < train.steps,
        f"schedule.warmup_steps ({schedule.warmup_steps}) must be below train.steps ({train.steps})",
    )
    require(
        train.stop_after is None or train.stop_after <= train.steps,
        f"train.stop_after ({train.stop_after}) must not be above train.steps ({train.steps})",
    )
    if schedule.decay_steps is not None:
        require(
            schedule.kind == "wsd", f"schedule.decay_steps is read only by kind=wsd, not by {schedule.kind}"
        )
        require(
            schedule.warmup_steps + schedule.decay_steps <= train.steps,
            f"schedule.warmup_steps ({schedule.warmup_steps}) + schedule.decay_steps "
            f"({schedule.decay_steps}) must not be above train.steps ({train.steps})",
        )
    require(
        config.precision.dtype == "bf16" or config.precision.accumulation == "fp32",
        "precision.accumulation (bf16) needs precision.dtype=bf16",
    )
    require(
        not (config.parallel.zero == 3 and train.compile == "block"),
        "train.compile (block) cannot be used with parallel.zero=3: DeepSpeed gathers parameters by hooks "
        "that must stay outside the compiled block; use train.compile=engine or none",
    )


def _check_checkpoint(config: Config) -> None:
    require(
        "://" not in config.run.folder,
        f"run.folder ({config.run.folder}) must be a folder of a file system; a URL belongs into "
        "checkpoint.folder",
    )
    require(
        config.checkpoint.folder != "", "checkpoint.folder is empty; leave it out, or name a folder or URL"
    )
    tiers = [os.path.normpath(tier.folder) for tier in config.checkpoint.tiers]
    for folder in (tier.folder for tier in config.checkpoint.tiers):
        require(
            "://" not in folder and folder.startswith("/"),
            f"checkpoint.tiers: folder ({folder}) must be an absolute path on each node's own disk; "
            "a URL belongs into checkpoint.folder",
        )
    require(len(set(tiers)) == len(tiers), "checkpoint.tiers: the same folder is named twice")
    require(
        config.checkpoint.keep_best == 0 or config.evaluate.every > 0,
        f"checkpoint.keep_best ({config.checkpoint.keep_best}) needs evaluate.every above 0: the validation "
        "loss of a checkpoint is that of its own step",
    )


def _check_cluster(config: Config) -> None:
    cluster, watchdog = config.cluster, config.resilience.watchdog
    require(
        cluster.hostfile is None or (cluster.launcher == "deepspeed" and cluster.processes is None),
        f"cluster.hostfile ({cluster.hostfile}) is read by cluster.launcher=deepspeed and says how many "
        "ranks each host gets: leave cluster.processes out",
    )
    require(
        cluster.master_addr is None or cluster.hostfile is not None,
        f"cluster.master_addr ({cluster.master_addr}) is read only with a cluster.hostfile",
    )
    require(
        config.resilience.selfcheck.bad != "exclude" or cluster.hostfile is not None,
        "resilience.selfcheck.bad (exclude) needs a cluster.hostfile: there is no other host to take",
    )
    require(
        watchdog.step_floor_s <= watchdog.step_ceiling_s,
        f"resilience.watchdog.step_floor_s ({watchdog.step_floor_s:g}) must not be above step_ceiling_s "
        f"({watchdog.step_ceiling_s:g})",
    )


def _check_faults(config: Config) -> None:
    for fault in config.faults:
        require(fault.at in TRAINING, f"faults: at ({fault.at}) is none of {', '.join(TRAINING)}")
        require(
            fault.at != "saved" or fault.rank == 0,
            f"faults: rank ({fault.rank}) at saved: rank 0 alone comes there; it would never strike",
        )
        allowed = NUMBERS.get(fault.at, ACTIONS)
        require(fault.do in allowed, f"faults: do ({fault.do}) at {fault.at} is none of {', '.join(allowed)}")
