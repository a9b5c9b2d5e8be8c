"""A tier: one place for checkpoints, who looks after it, and what is kept there."""

from __future__ import annotations

from dataclasses import dataclass

from megatrain.checkpoint.near import Nodes
from megatrain.checkpoint.place import LocalPlace, Place
from megatrain.checkpoint.retention import Retention

MAIN = "main"


@dataclass(frozen=True)
class Tier:
    name: str
    """In messages: "main", or "near" and a number."""
    place: Place
    retention: Retention
    nodes: Nodes | None = None
    """For a folder on each node's own disk; None: all ranks see the same place."""
    partner_copy: bool = False

    @property
    def keepers(self) -> list[int]:
        """The ranks that put the manifest into their folder and clear it; rank 0 is one of them."""
        return [0] if self.nodes is None else self.nodes.firsts

    @property
    def copies(self) -> bool:
        """Parts are copied to a neighbour."""
        return self.partner_copy and self.nodes is not None and self.nodes.count > 1

    @property
    def local(self) -> LocalPlace:
        """The place of a near tier."""
        assert isinstance(self.place, LocalPlace)
        return self.place


def near(number: int) -> str:
    """The name of the checkpoint.tiers entry of this number, counted from 1."""
    return f"near {number}"


def describe(tier: Tier, name: str) -> str:
    """A checkpoint in messages: "step-00000200", with its tier where that is not the main one."""
    return name if tier.name == MAIN else f"{name} ({tier.name})"
