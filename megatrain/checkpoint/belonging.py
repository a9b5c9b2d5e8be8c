"""Whether a checkpoint is one that a run can go on from, and what is said when it is not."""

from __future__ import annotations

from collections.abc import Sequence

from megatrain.checkpoint.commit import Identity
from megatrain.checkpoint.place import Place
from megatrain.checkpoint.read import Checkpoint
from megatrain.errors import FailedWork, UserError


def none_whole(place: Place, damaged: Sequence[str]) -> str:
    """What is said of a run whose checkpoints are all damaged: it must not quietly begin anew."""
    return (
        f"{place}: no checkpoint is whole ({' | '.join(damaged)}); "
        "restore one of them, or move the folder away and set checkpoint.restart_from_zero=true to start anew"
    )


def require_whole(checkpoint: Checkpoint, share: int = 0, shares: int = 1, *, hashes: bool) -> None:
    """Raises FailedWork naming the files of this rank's share whose size, or hash, is not the manifest's."""
    damaged = checkpoint.damaged(share, shares, hashes=hashes)
    if damaged:
        raise FailedWork(f"{checkpoint}: damaged: {'; '.join(damaged[:3])}; name another")


def require_same_model(checkpoint: Checkpoint, identity: Identity) -> None:
    """Raises UserError naming the first difference between the checkpoint's model or tokenizer and this
    run's."""
    for key, ours in identity.model.items():
        stored = checkpoint.manifest.model.get(key)
        if stored != ours:
            raise UserError(
                f"{checkpoint} is of another model: model.{key} is {stored} there and {ours} in the "
                "config; choose another run.folder or set it back"
            )
    if checkpoint.manifest.tokenizer != identity.tokenizer:
        raise UserError(
            f"{checkpoint} was trained with another tokenizer ({checkpoint.manifest.tokenizer[:12]} "
            f"there, {identity.tokenizer[:12]} beside the shards); choose another run.folder "
            "or the other dataset"
        )


def require_same_precision(checkpoint: Checkpoint, identity: Identity, *, allow_change: bool) -> None:
    """Raises UserError when a run would go on in another precision, unless the config says so on purpose."""
    stored = checkpoint.manifest.precision  # unknown in version 1
    for key, ours in identity.precision.items():
        if not allow_change and stored is not None and stored.get(key) != ours:
            raise UserError(
                f"{checkpoint} was trained with precision.{key}={stored.get(key)}, the config says {ours}; "
                "set checkpoint.allow_precision_change=true if that is on purpose"
            )
