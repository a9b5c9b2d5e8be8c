"""The one place that builds a DeepSpeed engine, and asserts that it does what was asked."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from megatrain.checkpoint import fragments
from megatrain.checkpoint.read import Checkpoint
from megatrain.checkpoint.store import load
from megatrain.config import Config, Derived
from megatrain.data.batch import Batch
from megatrain.errors import UserError
from megatrain.model import LossSum, Transformer
from megatrain.model.flops import count_parameters
from megatrain.model.init import build_model
from megatrain.parallel.collectives import alike
from megatrain.parallel.context import DeepSpeedMpu, ParallelContext
from megatrain.parallel.plan import Layout
from megatrain.train.optimizer import GuardedAdamW, build_optimizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MAX_BUCKET = 500_000_000  # elements; DeepSpeed's own default
# For a single data-parallel rank, which has nobody to reduce with. DeepSpeed would copy each gradient into a
# bucket and out again; reduced one by one (every one overfills this bucket) they stay where they are.
LEFT_IN_PLACE = {"contiguous_gradients": False, "reduce_bucket_size": 1}
# With bf16 parameters and fp32 accumulation, stage 1 is another class (DeepSpeed 0.19).
CLASSES = {
    (1, "fp32"): "DeepSpeedZeroOptimizer",
    (1, "bf16"): "BF16_Optimizer",
    (2, "fp32"): "DeepSpeedZeroOptimizer",
    (2, "bf16"): "DeepSpeedZeroOptimizer",
    (3, "fp32"): "DeepSpeedZeroOptimizer_Stage3",
    (3, "bf16"): "DeepSpeedZeroOptimizer_Stage3",
}


@dataclass(frozen=True)
class Engine:
    """A model in training on this rank: DeepSpeed's engine, and what megatrain knows about it."""

    deepspeed: Any
    model: Transformer
    layout: Layout
    optimizer: GuardedAdamW
    context: ParallelContext
    derived: Derived

    def forward(self, batch: Batch) -> LossSum:
        device = self.context.device
        tensors = (batch.tokens, batch.labels, batch.positions, batch.loss_mask)
        loss: LossSum = self.deepspeed(*(tensor.to(device, non_blocking=True) for tensor in tensors))
        return loss

    def backward(self, total: torch.Tensor, valid_tokens: float) -> None:
        """Add the gradient of total / valid_tokens, where the tokens are those of the whole global batch.

        DeepSpeed divides by the micro-batches and by the data-parallel ranks; the loss undoes both.
        """
        copies = self.derived.accumulation * self.derived.data_parallel
        self.deepspeed.backward(total * (copies / valid_tokens))

    def micro_step(self) -> None:
        """To be called after each backward but that of the last micro-batch, which `update` follows."""
        self.deepspeed.step()

    def update(self, accepts: Callable[[float], bool]) -> None:
        """Reduce, take the norm, clip; change the weights if `accepts(norm)` says so, alike on all ranks."""
        zero = self.deepspeed.optimizer
        # DeepSpeed sets the norm, the same number on all ranks, before it calls the client optimizer.
        self.optimizer.accepts = lambda: accepts(float(zero._global_grad_norm))
        self.deepspeed.step()

    @property
    def grad_norm(self) -> float:
        """Of the last update, before clipping; inf or nan when it was not finite."""
        norm = self.deepspeed.get_global_grad_norm()
        return float(norm)

    def set_learning_rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def held(self) -> list[fragments.Held]:
        """The boxes of logical tensors that this rank holds."""
        return fragments.held_boxes(
            self.model, self.deepspeed.optimizer, self.layout, self.context.tensor.rank
        )

    def copies(self) -> list[tuple[str, torch.Tensor]]:
        """The weights that every rank of the data axis holds whole, by stored name; none with ZeRO 3."""
        parted = self.deepspeed.zero_optimization_stage() == 3
        return [] if parted else [(name, p.detach()) for name, p in self.model.named_parameters()]

    def shared(self) -> list[tuple[str, torch.Tensor]]:
        """This rank's part of the fp32 weights that every rank of the tensor axis holds, by logical name."""
        pieces = [piece for name in self.layout for piece in self.layout[name] if piece.replicated]
        names = {f"{fragments.WEIGHTS}/{piece.name}" for piece in pieces}
        return [(held.tensor, held.data) for held in self.held() if held.tensor in names]

    def load(self, checkpoint: Checkpoint) -> None:
        """Collective. Overwrite weights, moments and Adam's step count with the checkpoint's, straight from
        its files.

        Raises FailedWork on all ranks when one of them finds a tensor absent or of another shape.
        """
        self._overwrite(checkpoint, self.held(), checkpoint.manifest.state.optimizer_step)

    def load_weights(self, checkpoint: Checkpoint) -> None:
        """Collective. Like `load`, but for a new run: the moments and the step count stay zero."""
        weights = [held for held in self.held() if held.tensor.startswith(f"{fragments.WEIGHTS}/")]
        self._overwrite(checkpoint, weights, 0)

    def _overwrite(self, checkpoint: Checkpoint, held: list[fragments.Held], adam_step: int) -> None:
        zero = self.deepspeed.optimizer
        # gloo is slower than a file that another rank of the host has just read.
        read = self.context.device.type == "cpu" and checkpoint.at_hand and self.copies()
        if read:
            held = held + fragments.copied_boxes(self.model, self.layout)
        alike(lambda: load(checkpoint, held), self.context)
        fragments.set_adam_step(zero, adam_step)
        if not read:
            fragments.gather_copies(zero)


def build_engine(config: Config, derived: Derived, context: ParallelContext) -> Engine:
    """Collective. Initial weights, DeepSpeed around them, Adam's state made; ready for a step or a load."""
    import deepspeed  # takes seconds; only ranks that train need it
    from deepspeed.runtime.config import DeepSpeedConfigError

    settings, mpu = deepspeed_config(config, derived), DeepSpeedMpu(context)
    parted = config.parallel.zero == 3
    model, layout = build_model(
        config.model,
        context,
        seed=config.run.seed,
        dtype=DTYPES[config.precision.dtype],
        documents=config.data.document_mask,
        recompute=config.train.recompute,
        settle=partial(part, settings, mpu, DTYPES[config.precision.dtype]) if parted else None,
    )
    if config.train.compile == "block":
        for block in model.layers:
            block.compile()
    # Parted, a weight has no shape that tells.
    matrix = {name: any(len(piece.shape) > 1 for piece in layout[name]) for name in layout}
    optimizer = build_optimizer(
        (p for name, p in model.named_parameters() if matrix[name]),
        (p for name, p in model.named_parameters() if not matrix[name]),
        config.optimizer,
    )
    chatter = io.StringIO()
    try:
        with contextlib.redirect_stdout(chatter):  # BF16_Optimizer prints its memory use, unasked
            engine, _, _, _ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, mpu=mpu)
    except (
        ValidationError,
        DeepSpeedConfigError,
    ) as error:  # alike on all ranks, and no better when tried again
        told = " ".join(str(error).split())
        raise UserError(
            f"deepspeed: DeepSpeed {deepspeed.__version__} refuses the settings: {told}"
        ) from None
    logging.getLogger(__name__).debug("deepspeed.initialize: %s", chatter.getvalue())
    _assert_effective(engine, config, derived, context)
    if context.data.size == 1 and type(engine.optimizer).__name__ == "BF16_Optimizer":
        # Nobody to reduce with: without this it copies all gradients into a buffer and back.
        engine.enable_backward_allreduce = False
    fragments.make_adam_state(engine.optimizer)
    if config.train.compile == "engine":
        engine.compile()
    return Engine(engine, model, layout, optimizer, context, derived)


def part(settings: Mapping[str, Any], mpu: DeepSpeedMpu, dtype: torch.dtype, block: nn.Module) -> None:
    """Collective. Leave each data-parallel rank its part of a block's weights, as ZeRO 3 holds them, so that
    no rank ever has all blocks whole."""
    import deepspeed

    deepspeed.zero.Init(
        module=block,
        data_parallel_group=mpu.get_data_parallel_group(),
        dtype=dtype,
        config_dict_or_path=dict(settings),
        mpu=mpu,
    )


def deepspeed_config(config: Config, derived: Derived) -> dict[str, Any]:
    """What DeepSpeed is told; the raw settings of the `deepspeed` section are merged in."""
    raw = config.deepspeed.model_dump(mode="json")
    if raw.get("comms_logger", {}).get("enabled") is False:
        del raw["comms_logger"]  # DeepSpeed takes any such section for yes
    # DeepSpeed takes a buffer of this size for itself in each backward pass, however small the model.
    own = -(-count_parameters(config.model).total // config.parallel.tensor)
    bucket = min(MAX_BUCKET, own + config.model.dim * config.model.layers * 4)
    alone = config.parallel.zero == 1 and derived.data_parallel == 1
    return {
        **raw,
        "train_batch_size": derived.padded_batch,
        "train_micro_batch_size_per_gpu": config.train.micro_batch,
        "gradient_accumulation_steps": derived.accumulation,
        "gradient_clipping": config.optimizer.clip,
        "bf16": {"enabled": config.precision.dtype == "bf16"},
        "data_types": {"grad_accum_dtype": config.precision.accumulation},
        # Unless told, DeepSpeed rounds what was accumulated in fp32 to bf16 before it is reduced.
        "communication_data_type": config.precision.accumulation,
        "zero_optimization": {
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            **(LEFT_IN_PLACE if alone else {}),
            **raw["zero_optimization"],
            "stage": config.parallel.zero,
        },
        "zero_allow_untested_optimizer": True,  # GuardedAdamW is torch's AdamW
        "steps_per_print": 1 << 40,  # megatrain prints
    }


def _assert_effective(engine: Any, config: Config, derived: Derived, context: ParallelContext) -> None:
    """DeepSpeed may quietly choose otherwise; then the run must not begin."""
    optimizer = engine.optimizer
    name = type(optimizer).__name__
    accumulation = config.precision.accumulation
    key = (
        config.parallel.zero,
        "bf16" if config.precision.dtype == "bf16" and accumulation == "fp32" else "fp32",
    )
    found = {
        "optimizer class": (name, CLASSES[key]),
        "client optimizer": (type(optimizer.optimizer).__name__, GuardedAdamW.__name__),
        "ZeRO stage": (engine.zero_optimization_stage(), config.parallel.zero),
        "accumulation steps": (engine.gradient_accumulation_steps(), derived.accumulation),
        "clipping": (float(engine.gradient_clipping()), config.optimizer.clip),
        "data-parallel ranks": (engine.dp_world_size, context.data.size),
        "tensor-parallel ranks": (engine.mp_world_size, context.tensor.size),
        "parameter dtype": ({p.dtype for p in engine.module.parameters()}, {DTYPES[config.precision.dtype]}),
        "master dtype": ({p.dtype for p in fragments.master_partitions(optimizer)}, {torch.float32}),
        "accumulation dtype": (engine.get_data_types()[1], DTYPES[accumulation]),
        "reduction dtype": (engine.communication_data_type, DTYPES[accumulation]),
    }
    wrong = [f"{what} is {real}, asked for {asked}" for what, (real, asked) in found.items() if real != asked]
    assert not wrong, f"DeepSpeed does not do what the config asks: {'; '.join(wrong)}"
