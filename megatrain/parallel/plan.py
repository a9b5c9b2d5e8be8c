"""The tensor-parallel plan: for each layer of a plain model, how its weight is split and which logical
tensors it holds.

The plan stands beside the model. From it follow the replacement of layers, the initialisation, the marks that
DeepSpeed's gradient norm reads, the boxes of the checkpoint, and the names of the export.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from megatrain.parallel.context import Axis


@dataclass(frozen=True)
class Part:
    """A logical tensor that lies, with others, in one stored (fused) weight."""

    name: str
    rows: int
    """Of the whole logical tensor, over all ranks."""


@dataclass(frozen=True)
class Column:
    """The weight's rows (output features) are split; each part of a fused weight for itself."""

    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Row:
    """The weight's columns (input features) are split; outputs are summed over the axis."""


@dataclass(frozen=True)
class Vocab:
    """The rows of an embedding or output head are split, and the loss works on split logits."""


@dataclass(frozen=True)
class Replicated:
    """Every rank of the axis holds the whole tensor, and the same gradient of it."""


Rule = Column | Row | Vocab | Replicated
Plan = Mapping[str, Rule]


@dataclass(frozen=True)
class Piece:
    """The slice of one logical tensor that a rank holds within a stored parameter."""

    name: str
    shape: tuple[int, ...]
    """Of the whole logical tensor."""
    offset: tuple[int, ...]
    """Of the slice within the logical tensor."""
    local: tuple[int, ...]
    """Shape of the slice."""
    first_row: int
    """Of the slice within the stored parameter of this rank."""
    replicated: bool
    """Other ranks of the tensor axis hold the same."""


Layout = Mapping[str, tuple[Piece, ...]]
"""Stored parameter name → the pieces it is made of, in the order of its rows."""


def rule_of(plan: Plan, module: str) -> Rule:
    """The rule for a module's weight; a module that the plan does not name is a mistake in the plan."""
    for pattern, rule in plan.items():
        if fnmatch.fnmatchcase(module, pattern):
            return rule
    raise KeyError(f"the plan has no rule for {module}")


def layout_of(shapes: Iterable[tuple[str, tuple[int, ...]]], plan: Plan, axis: Axis) -> Layout:
    """What a rank of the tensor axis holds.

    shapes: (name, whole shape) of the stored parameters of the plain model, e.g.
    ("layers.0.attention.qkv.weight", (96, 32)).
    """
    layout = {}
    for name, shape in shapes:
        module, _, leaf = name.rpartition(".")
        layout[name] = _pieces(module, leaf, shape, rule_of(plan, module), axis)
    return layout


def local_shape(pieces: tuple[Piece, ...]) -> tuple[int, ...]:
    """Shape of a stored parameter on this rank."""
    return (sum(piece.local[0] for piece in pieces), *pieces[0].local[1:])


def _pieces(module: str, leaf: str, shape: tuple[int, ...], rule: Rule, axis: Axis) -> tuple[Piece, ...]:
    match rule:
        case Replicated():
            return (Piece(f"{module}.{leaf}", shape, (0,) * len(shape), shape, 0, replicated=True),)
        case Row():
            return (_slice(f"{module}.{leaf}", shape, 1, 0, axis),)
        case Vocab():
            return (_slice(f"{module}.{leaf}", shape, 0, 0, axis),)
        case Column(parts):
            owner, _, own = module.rpartition(".")
            parts = parts or (Part(own, shape[0]),)
            assert sum(part.rows for part in parts) == shape[0], (module, parts, shape)
            pieces, first = [], 0
            for part in parts:
                name = ".".join(filter(None, (owner, part.name, leaf)))
                piece = _slice(name, (part.rows, *shape[1:]), 0, first, axis)
                pieces.append(piece)
                first += piece.local[0]
            return tuple(pieces)


def _slice(name: str, shape: tuple[int, ...], dim: int, first_row: int, axis: Axis) -> Piece:
    assert shape[dim] % axis.size == 0, (name, shape, axis.size)
    local, offset = list(shape), [0] * len(shape)
    local[dim] = shape[dim] // axis.size
    offset[dim] = axis.rank * local[dim]
    return Piece(name, shape, tuple(offset), tuple(local), first_row, replicated=axis.size == 1)
