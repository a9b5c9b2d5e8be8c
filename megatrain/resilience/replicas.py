"""Whether ranks that must hold the same values do: a device that computes wrongly differs from others."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
import xxhash

from megatrain.parallel.collectives import gather_objects
from megatrain.parallel.context import Axis, ParallelContext

CHUNK = 1 << 22  # elements hashed at a time: what bounds the memory beside the weights
GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # odd: to multiply by it loses nothing
INTEGERS = {2: torch.int16, 4: torch.int32}
DRIFT = 1e-3
Named = Sequence[tuple[str, torch.Tensor]]


def fingerprints(tensors: Sequence[torch.Tensor]) -> list[int]:
    """A 64-bit hash of each one's bits, computed where they lie: a device copies nothing to the host."""
    if not tensors:
        return []
    if tensors[0].device.type == "cpu":
        raw = (tensor.detach().contiguous().view(-1).view(torch.uint8) for tensor in tensors)
        return [xxhash.xxh3_64_intdigest(memoryview(one.numpy())) for one in raw]  # type: ignore[arg-type]
    hashes: list[int] = torch.stack([weighted_sum(tensor) for tensor in tensors]).tolist()
    return hashes


def weighted_sum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of all elements' bits, each times an odd number of its own, modulo 2^64; an int64 scalar.

    One element that differs always changes it: an odd factor loses nothing.
    """
    bits = tensor.detach().contiguous().view(-1).view(INTEGERS[tensor.element_size()])
    weights = torch.arange(min(CHUNK, max(1, bits.numel())), dtype=torch.int64, device=bits.device)
    weights.mul_(GOLDEN).bitwise_or_(1)
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for start in range(0, bits.numel(), CHUNK):
        piece = bits[start : start + CHUNK]
        total.mul_(GOLDEN).add_((piece * weights[: len(piece)]).sum())
    return total


def minority(values: Mapping[int, object]) -> list[int]:
    """The ranks whose value is not that of more than half of them; where there is no such value, all."""
    (value, count), *others = Counter(values.values()).most_common()
    if not others:
        return []
    return [rank for rank, its in values.items() if its != value or 2 * count <= len(values)]


def differing(copies: Named, shared: Named, context: ParallelContext) -> str | None:
    """Collective. Which rank holds something else than the others that must hold the same, and where; None if
    all is well.

    copies: equal bit for bit on all ranks of the data axis. shared: equal on the tensor axis but for the
    order in which its ranks' gradients were summed, so a small drift is allowed.
    """
    hashes = fingerprints([tensor for _, tensor in copies])
    own = (xxhash.xxh3_64_hexdigest(str(hashes).encode()), _drifts(shared, context.tensor))
    told = gather_objects(own, context.world)
    size = context.tensor.size
    lanes = [range(lane, context.world.size, size) for lane in range(size)]
    odd = {rank for lane in lanes for rank in minority({r: told[r][0] for r in lane})}
    drifted = {rank for rank, (_, drifts) in enumerate(told) if drifts}
    if not odd | drifted:
        return None
    rows = gather_objects((socket.gethostname(), hashes), context.world)
    names = [
        name
        for number, (name, _) in enumerate(copies)
        if any(minority({r: rows[r][1][number] for r in lane}) for lane in lanes)
    ]
    names += [name for name, _ in shared if any(name in drifts for _, drifts in told)]
    who = ", ".join(f"rank {rank} on {rows[rank][0]}" for rank in sorted(odd | drifted))
    return f"{who}: holds other values than its replicas in {', '.join(names[:3])}"


def _drifts(shared: Named, axis: Axis) -> list[str]:
    """Collective. Names of what is far from the middle of the axis' ranks on this one; of two, both are."""
    if axis.size == 1:
        return []
    found = []
    for name, tensor in shared:
        own = tensor.detach().contiguous()
        all_ = [torch.empty_like(own) for _ in range(axis.size)]
        dist.all_gather(all_, own, group=axis.group)
        stacked = torch.stack(all_)
        # Of two the lower one is the median: compare with it, and it with the other.
        middle = stacked.nanmedian(dim=0).values if axis.size > 2 else stacked[1 - axis.rank]
        if not bool(((own - middle).abs() <= DRIFT * (1 + middle.abs())).all()):  # not a number is far, too
            found.append(name)
    return found
