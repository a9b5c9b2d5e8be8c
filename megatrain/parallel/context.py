"""Who a rank is among the ranks: one frozen ParallelContext, passed to what needs it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh


@dataclass(frozen=True)
class Axis:
    """One axis of the process mesh, as one rank sees it."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None
    """None on an axis of size 1 without process groups."""


@dataclass(frozen=True)
class ParallelContext:
    """The mesh (data, tensor); tensor-parallel ranks are neighbours, so that they share a node."""

    world: Axis
    data: Axis
    tensor: Axis
    device: torch.device

    @staticmethod
    def single(device: torch.device | str = "cpu") -> ParallelContext:
        """A process on its own; no process group is needed."""
        return ParallelContext(world=Axis(), data=Axis(), tensor=Axis(), device=torch.device(device))

    @staticmethod
    def create(tensor: int, device: torch.device) -> ParallelContext:
        """Collective. Build the mesh over all ranks of the default process group; `tensor` divides their
        number."""
        world = dist.get_world_size()
        assert world % tensor == 0, (world, tensor)
        mesh = init_device_mesh(device.type, (world // tensor, tensor), mesh_dim_names=("data", "tensor"))

        def axis(name: str) -> Axis:
            group = mesh.get_group(name)
            return Axis(rank=dist.get_rank(group), size=dist.get_world_size(group), group=group)

        return ParallelContext(
            world=Axis(rank=dist.get_rank(), size=world, group=dist.group.WORLD),
            data=axis("data"),
            tensor=axis("tensor"),
            device=device,
        )


@dataclass(frozen=True)
class DeepSpeedMpu:
    """What `deepspeed.initialize(mpu=...)` asks about the mesh."""

    context: ParallelContext

    def get_model_parallel_rank(self) -> int:
        return self.context.tensor.rank

    def get_model_parallel_world_size(self) -> int:
        return self.context.tensor.size

    def get_model_parallel_group(self) -> dist.ProcessGroup | None:
        return self.context.tensor.group

    def get_data_parallel_rank(self) -> int:
        return self.context.data.rank

    def get_data_parallel_world_size(self) -> int:
        return self.context.data.size

    def get_data_parallel_group(self) -> dist.ProcessGroup | None:
        return self.context.data.group

    # Newer DeepSpeed code paths ask by these names.
    get_tensor_model_parallel_rank = get_model_parallel_rank
    get_tensor_model_parallel_world_size = get_model_parallel_world_size
    get_tensor_model_parallel_group = get_model_parallel_group
