"""How a process becomes a rank: its device, its threads, the process group, the mesh."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import warnings
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from megatrain.config import Config
from megatrain.errors import require
from megatrain.parallel.context import ParallelContext
from megatrain.train.network import (
    interface_for_gloo,
    is_single_host,
    loopback_interface,
    loopback_store,
)

# SLURM's names for what every other launcher calls by the first name.
SLURM_NAMES = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}


def world_from_environment() -> tuple[int, int, int]:
    """(rank, world, local rank) as `deepspeed`, torchrun or srun tell them; a process on its own is rank 0
    of 1."""
    values = []
    for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
        value = os.environ.get(name) or os.environ.get(SLURM_NAMES[name]) or default
        os.environ[name] = value
        values.append(int(value))
    return values[0], values[1], values[2]


def start_rank(config: Config) -> ParallelContext:
    """Collective. Join the process group and build the mesh. Raises UserError for a layout that does not
    fit."""
    rank, world, local_rank = world_from_environment()
    require(
        world % config.parallel.tensor == 0,
        f"parallel.tensor ({config.parallel.tensor}) must divide the number of ranks ({world})",
    )
    device = _device(local_rank)
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        local_world = int(os.environ.get("LOCAL_SIZE") or os.environ.get("LOCAL_WORLD_SIZE") or world)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        keep_memory()
        torch.set_num_threads(config.train.threads or max(1, cores // local_world))
    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Else every torch.empty is filled: DeepSpeed's buckets of gigabytes, each step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500")
    timeout = timedelta(seconds=config.resilience.collective_timeout_s)
    store = None
    if is_single_host(world, os.environ):
        # Also over what a cluster's profile has set: on one host no other interface is needed.
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = loopback_interface()
        # torchrun's agent, when somebody runs it by hand, has a store of its own.
        if not dist.is_initialized() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            port = config.cluster.master_port or int(os.environ["MASTER_PORT"])
            store = loopback_store(rank, world, port, timeout)
    elif (interface := interface_for_gloo(os.environ["MASTER_ADDR"])) is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    # What was asked for comes as such lines.
    comms = config.deepspeed.comms_logger
    asked = (comms is not None and comms.enabled is not False) or config.deepspeed.dump_state
    _join(device, store, timeout, logging.INFO if asked else logging.WARNING)
    return ParallelContext.create(config.parallel.tensor, device)


def keep_memory() -> None:
    """Tell glibc to keep freed memory: a training step frees and takes the same large blocks again and again.

    Given back to the kernel each time, they cost a page fault for every 4 KiB: 13 % of a small model's step.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to tell
        libc = ctypes.CDLL("libc.so.6")
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of mallopt(3)
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)


def leave() -> None:
    """Collective. Wait for all ranks and end the process group."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _join(device: torch.device, store: Any, timeout: timedelta, log_level: int) -> None:
    """Join the process group over a store, by default the one that the launcher's environment names."""
    import deepspeed
    import torch.distributed.distributed_c10d as c10d

    # On CPU, DeepSpeed would compile an op for shared-memory collectives, which training never calls, which
    # leaves 66 MB in /dev/shm for each rank, and whose lock file hangs later runs when the build is killed.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    c10d.default_pg_timeout = timeout  # the groups that DeepSpeed makes itself take no time-out from anyone
    _quieten(log_level)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if store is not None:
        rank, world, _ = world_from_environment()
        # As DeepSpeed does it itself: a rank on its own is bound to no device (its issue 8248).
        bound: Any = {"device_id": device} if device.type == "cuda" and world > 1 else {}
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout, **bound)
    deepspeed.init_distributed(dist_backend=backend, timeout=timeout, verbose=False)


def _quieten(level: int) -> None:
    """DeepSpeed's log lines go where the rank's own go, not to the terminal; its deprecated calls are not
    ours."""
    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(level)
    logger.handlers.clear()
    logger.propagate = True
    # It warns of every optimizer class that is not its own; GuardedAdamW is torch's AdamW.
    logger.addFilter(lambda record: "untested optimizer" not in record.getMessage())
    warnings.filterwarnings(
        "ignore", message=".*is deprecated. Please use `torch.distributed", category=FutureWarning
    )
