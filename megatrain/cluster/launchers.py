"""The command lines of launchers, and the environment that they and the ranks get."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import megatrain
from megatrain.cluster.hosts import Host
from megatrain.config import Config
from megatrain.errors import require

# Besides PYTHON*, which the deepspeed launcher forwards to other hosts by itself. Nothing that is secret.
FORWARDED = (
    "NCCL_",
    "GLOO_",
    "TORCH_",
    "CUDA_",
    "OMP_",
    "MKL_",
    "DS_ACCELERATOR",
    "HF_HUB_OFFLINE",
    "MEGATRAIN_",
)
RANKS_A_CORE = 8
"""More ranks of a tiny model on one core wait for each other beyond every time-out."""
GIB_A_RANK = 0.25
"""Memory of a rank without a model: the imports alone."""


def local_world(config: Config) -> int:
    """How many ranks this machine gets: as configured, else one a GPU, else as few as the layout allows.

    Raises UserError for more ranks than GPUs.
    """
    import torch

    processes, gpus = config.cluster.processes, torch.cuda.device_count()
    require(
        processes is None or not gpus or processes <= gpus,
        f"cluster.processes ({processes}) is above the {gpus} GPUs of this machine; each rank takes one",
    )
    return processes or gpus or config.parallel.tensor


def require_ranks_fit(world: int, what: str) -> None:
    """Raise UserError where this machine cannot run as many ranks: a GPU each, or without GPUs a share of a
    core and of the memory."""
    import torch

    gpus = torch.cuda.device_count()
    if gpus:
        require(
            world <= gpus,
            f"{what} takes {world:,} ranks, but this machine has {gpus} GPUs; choose a smaller one",
        )
        return
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    most = max(1, min(RANKS_A_CORE * cores(), int(memory_gib / GIB_A_RANK)))
    require(
        world <= most,
        f"{what} takes {world:,} ranks, but this machine without GPUs runs {most} at most ({cores()} cores x "
        f"{RANKS_A_CORE}; {memory_gib:.0f} GiB of memory, {GIB_A_RANK:g} a rank); choose a smaller one",
    )


def command_line(
    config: Config,
    config_path: Path,
    overrides: Sequence[str],
    *,
    world: int,
    control: Path,
    hosts: Sequence[Host] = (),
) -> list[str]:
    """Of the launcher that starts `launch/pretrain.py` on `world` ranks of this machine, or on the hosts.

    Raises UserError when the port is taken.
    """
    port = config.cluster.master_port or free_port()
    require(
        hosts or _is_free(port),
        f"cluster.master_port ({port}) is in use on this machine; choose another or leave it out",
    )
    program = Path(megatrain.__file__).parents[1] / "launch" / "pretrain.py"
    ranks = [str(program), "--config", str(config_path), "--control", str(control), *overrides]
    deepspeed = [sys.executable, "-m", "deepspeed.launcher.runner", "--master_port", str(port)]
    deepspeed += ["--no_local_rank", "--quiet"]
    if hosts:
        hostfile = control / "hosts"
        hostfile.write_text("".join(f"{host.name} slots={host.slots}\n" for host in hosts))
        address = config.cluster.master_addr
        named = ["--master_addr", address] if address is not None else []
        return [
            *deepspeed,
            "--hostfile",
            str(hostfile),
            "--launcher",
            "pdsh",
            "--force_multi",
            *named,
            *ranks,
        ]
    match config.cluster.launcher:
        case "deepspeed":
            return [*deepspeed, "--num_gpus", str(world), "--hostfile", os.devnull, *ranks]
        case "torchrun":
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(world)]
            # By a file: its agent's own store would listen on all interfaces. The ranks make theirs.
            torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", str(control / "rendezvous")]
            torchrun += ["--rdzv-conf", "store_type=file", "--local-addr", "127.0.0.1"]
            return [*torchrun, *ranks]


def environment(
    config: Config, world: int, variables: Mapping[str, str], control: Path, hosts: Sequence[Host] = ()
) -> dict[str, str]:
    """Of the launcher, and through it of the ranks; `variables` go before ours."""
    import torch

    cpu = not torch.cuda.is_available()
    threads = config.train.threads or max(1, cores() // max(1, world))
    found = {
        **({"DS_ACCELERATOR": "cpu"} if cpu else {}),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # torchrun's agent: the ranks make their store
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        **variables,
    }
    if hosts:
        file = control / "environment"
        told = {name: text for name, text in found.items() if name.startswith(FORWARDED) and "\n" not in text}
        file.write_text("".join(f"{name}={text}\n" for name, text in told.items()))
        found["DS_ENV_FILE"] = str(file)
    return found


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
