"""The config tree: frozen, typed sections; what each key means and what it may be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from megatrain.config.deepspeed import DeepSpeedConfig
from megatrain.config.section import Count, Fraction, PositiveInt, PositiveReal, Real, Section, Whole
from megatrain.settings import PathText, expanded

FORMAT_VERSION = 1


def _switch(value: object) -> object:
    """Read false, as older configs may have it, as `off`."""
    return "off" if value is False or value == "false" else value


def _program(command: tuple[str, ...]) -> tuple[str, ...]:
    return (*map(expanded, command[:1]), *command[1:])


class RunConfig(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "run"
    """For people: what the run is called at wandb and in the queue."""
    folder: Annotated[PathText, Field(min_length=1)] = "runs/run"
    """Everything the run writes lies here. The same folder means: go on with this run."""
    seed: Count = 1234
    """Initial weights and the order of samples follow from it."""


class Llama3Scaling(Section):
    """RoPE scaling of Llama 3.1 (arXiv 2407.21783; the published reference code's default values)."""

    factor: PositiveReal = 8.0
    """Long wavelengths are stretched by this."""
    low_freq_factor: PositiveReal = 1.0
    """Wavelengths above original_sequence_length / this are stretched in full."""
    high_freq_factor: PositiveReal = 4.0
    """Wavelengths below original_sequence_length / this stay as they are."""
    original_sequence_length: PositiveInt = 8192
    """Of the training before the stretching."""


class RopeConfig(Section):
    theta: PositiveReal = 10000.0
    """Base of the wavelengths."""
    llama3: Llama3Scaling | None = None
    """Scaling of Llama 3.1 and later; null: none."""


class ModelConfig(Section):
    """A Llama-style decoder."""

    architecture: Literal["llama"] = "llama"
    vocab_size: PositiveInt = 32000
    """Rows of the embedding; at least the tokenizer's, a multiple of parallel.tensor."""
    dim: PositiveInt = 768
    """Width of the residual stream."""
    layers: PositiveInt = 12
    heads: PositiveInt = 12
    """Heads of queries, a multiple of kv_heads."""
    kv_heads: PositiveInt = 12
    """Heads of keys and values: fewer than `heads` is grouped-query attention, 1 is multi-query. A
    multiple of `parallel.tensor`: no head is replicated over tensor ranks, so multi-query trains with 1."""
    head_dim: PositiveInt = 64
    """Width of one head; heads * head_dim need not be dim."""
    ffn_dim: PositiveInt = 2048
    """Width of the SwiGLU feed-forward network."""
    norm_eps: PositiveReal = 1e-5
    """Added to the mean square in RMSNorm."""
    rope: RopeConfig = RopeConfig()
    tied_embeddings: bool = False
    """The output head is the embedding."""
    init_std: PositiveReal = 0.02
    """Standard deviation of the initial weights; what writes into the residual stream: / sqrt(2 * layers)."""


class TokenizerConfig(Section):
    folder: PathText | None = None
    """Default: the tokenizer that lies beside the shards."""


class SourceConfig(Section):
    path: PathText
    """Folder made by `megatrain prepare`, with train/, validation/ and test/; also s3:// and other URLs that
    fsspec reads."""
    name: str | None = None
    """One source of that folder; default: all of them."""
    weight: PositiveReal | None = None
    """Relative share of samples; all sources name one, or none does (then by size)."""


class PhaseConfig(Section):
    from_tokens: Annotated[Real, Field(ge=0)]
    """The phase begins after so many tokens (samples times sequence_length); the first begins at 0."""
    weights: Annotated[dict[str, PositiveReal], Field(min_length=1)]
    """Relative share of samples of each source by its name; a source that is not named is not drawn."""


class ShuffleConfig(Section):
    """How the samples of a source are shuffled within an epoch."""

    kind: Literal["full", "block"] = "full"
    """`block` reads near places at near times: for network file systems and object storage."""
    block: PositiveInt = 1024
    """Neighbouring samples that stay together; the blocks are in random order. Read by kind=block."""
    window: PositiveInt = 16
    """Blocks whose samples are shuffled among themselves. Read by kind=block."""


class CacheConfig(Section):
    """Copies of shards that lie on object storage, shared by all ranks of a host."""

    folder: PathText | None = None
    """On each node's own disk; needed when a source's path is a URL."""
    gib: PositiveReal = 100.0
    """At most so much; what was used longest ago makes room."""
    ahead: Annotated[Whole, Field(ge=0, le=64)] = 2
    """Shards fetched before they are needed; 0: none."""


class DataConfig(Section):
    sources: tuple[SourceConfig, ...] = ()
    """What is trained on, and in which proportions."""
    phases: tuple[PhaseConfig, ...] = ()
    """Weights that change on the way, e.g. `[{from_tokens: 0, weights: {web: 9, books: 1}},
    {from_tokens: 9e10, weights: {web: 1, books: 1}}]`; then no source has a weight of its own."""
    sequence_length: PositiveInt = 1024
    """Tokens of one sample."""
    document_mask: bool = True
    """Attention and positions stay within a document."""
    document_start: Literal["eos", "none"] | None = None
    """With document_mask. `eos`: the EOS of the document before is the start token of the next, so that each
    document's first token is a label, and exports have a trained BOS; `none`: that label does not count.
    Default: as the run was begun, and `eos` for a new run."""
    packing: Literal["none", "best_fit"] = "none"
    """`best_fit`: samples are whole documents, packed by the plan of `megatrain data pack`; `none`: the run
    of documents is cut every sequence_length tokens."""
    shuffle: ShuffleConfig = ShuffleConfig()
    prefetch: Annotated[Whole, Field(ge=1, le=64)] = 2
    """Global batches read ahead."""
    cache: CacheConfig = CacheConfig()
    retry_s: PositiveReal = 60.0
    """A shard that cannot be read is tried again, with growing waits, for so long."""
    verify: Literal["none", "size", "hash"] = "hash"
    """What is checked of the shards before the first step: nothing, their sizes, or also their hashes, of
    which each rank takes its share. Shards on object storage are hashed when they are fetched."""
    allow_change: bool = False
    """Resume although the dataset or its mixture is another one, on purpose."""


class ParallelConfig(Section):
    tensor: PositiveInt = 1
    """Ranks that share each layer; adjacent ranks, so keep it within a node."""
    zero: Annotated[Whole, Field(ge=0, le=3)] = 1
    """ZeRO stage: 1 shards the optimizer's state, 2 also gradients, 3 also parameters; 0 is refused."""


class PrecisionConfig(Section):
    dtype: Literal["fp32", "bf16"] = "bf16"
    """Parameters and matrix products; master weights and moments are fp32 always."""
    accumulation: Literal["fp32", "bf16"] = "fp32"
    """Gradients are accumulated, and reduced over the data-parallel ranks, in this."""


class OptimizerConfig(Section):
    name: Literal["adamw"] = "adamw"
    beta1: Annotated[Real, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[Real, Field(ge=0, lt=1)] = 0.95
    eps: PositiveReal = 1e-8
    weight_decay: Annotated[Real, Field(ge=0)] = 0.1
    """Not applied to norm weights."""
    clip: Annotated[Real, Field(ge=0)] = 1.0
    """Global gradient norm is clipped to this; 0 turns clipping off."""


class ScheduleConfig(Section):
    kind: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """After the warm-up; `wsd` stays at the peak and decays at the end."""
    learning_rate: PositiveReal = 3e-4
    """Peak."""
    final_fraction: Fraction = 0.1
    """The schedule ends at this fraction of the peak."""
    warmup_steps: Count = 100
    """The learning rate rises linearly over these."""
    decay_steps: PositiveInt | None = None
    """Length of the final decay of `wsd` (default: a tenth of train.steps). The others decay all the way."""


class TrainConfig(Section):
    steps: PositiveInt = 1000
    """Optimizer steps of the run, skipped ones included."""
    stop_after: PositiveInt | None = None
    """Save and stop after this step (exit 0), on the schedule of all train.steps; default: do not."""
    global_batch: Annotated[Whole, Field(gt=0, le=10_000_000)] = 64
    """Samples that one optimizer step sees, over all ranks; where these do not divide it, rows that count for
    nothing fill up the rest."""
    micro_batch: PositiveInt = 4
    """Samples that one rank takes through the model at a time."""
    recompute: Literal["none", "block"] = "none"
    """`block`: activations inside each layer are computed again in the backward pass."""
    compile: Literal["none", "block", "engine"] = "none"
    """torch.compile of each layer, or of the whole model by DeepSpeed."""
    threads: PositiveInt | None = None
    """CPU threads a rank; default: the machine's cores shared out over its ranks."""
    deterministic: bool = True
    """Deterministic kernels where torch has them (on GPUs)."""


class EvaluateConfig(Section):
    every: Count = 0
    """Steps between evaluations on the validation split; 0: never during training."""
    windows: PositiveInt | None = None
    """At most this many windows of each source, evenly spaced; default: all. `all` weighs each source by its
    size in the split, not by its windows evaluated."""


class TierConfig(Section):
    folder: PathText
    """On each node's own disk; `{node}` in it stands for the node's number."""
    every: PositiveInt = 100
    """Steps between checkpoints here."""
    keep: PositiveInt = 2
    """Newest checkpoints kept here."""
    partner_copy: bool = True
    """Each node also keeps its neighbour's part, so that a node that is lost costs nothing."""


class CheckpointConfig(Section):
    folder: PathText | None = None
    """A folder, or s3://, gs:// and other URLs that fsspec reads; default: checkpoints/ in the run's folder.
    """
    staging: PathText | None = None
    """Local folder where files wait for their upload to a URL; default: the system's for temporary files."""
    every: PositiveInt = 1000
    """Steps between checkpoints; the last step is always saved."""
    every_minutes: PositiveReal | None = None
    """Also when so many minutes have passed since the last."""
    keep: PositiveInt = 3
    """Newest checkpoints kept."""
    keep_every: PositiveInt | None = None
    """Checkpoints whose step is a multiple of this are kept for ever."""
    keep_best: Count = 0
    """As many with the lowest validation loss are kept; those whose step was evaluated have one."""
    background: bool = True
    """Copy into host memory (12 bytes a parameter, shared out over the ranks) and write while training goes
    on."""
    when_busy: Literal["wait", "skip"] = "wait"
    """When a save is due while the one before is still being written."""
    retry_s: PositiveReal = 60.0
    """A save that failed is tried again after this, then after twice as long, up to 16 times as long."""
    timeout_s: PositiveReal = 3600.0
    """A save fails when a rank has not written its part by then."""
    verify: bool = True
    """Compare hashes when a checkpoint is read."""
    allow_precision_change: bool = False
    """Go on in another precision than the checkpoint was trained in, on purpose."""
    tiers: tuple[TierConfig, ...] = ()
    """Nearer places with checkpoints more often, nearest last; a run goes on from the newest of all that is
    whole."""
    restart_from_zero: bool = False
    """Begin at step 0 where the run's folder says that checkpoints were committed but none is found. The
    default refuses that: a folder may be unmounted, a URL wrong. Not read while there is a checkpoint."""
    load_weights_from: PathText | None = None
    """Start a new run from the weights of this checkpoint folder or URL, with a fresh optimizer."""


class WatchdogConfig(Section):
    enabled: bool = True
    """End a rank that has come to a standstill, with the stacks of its threads and the place of every rank.
    """
    step_factor: Annotated[Real, Field(ge=2)] = 10.0
    """A step may take so many times the median of the last 50."""
    step_floor_s: PositiveReal = 120.0
    """But at least this."""
    step_ceiling_s: PositiveReal = 1800.0
    """And at most this."""
    start_s: PositiveReal = 3600.0
    """From the start of a rank to its first step's end: reading a checkpoint and compiling are in it."""
    evaluate_s: PositiveReal = 3600.0
    """One evaluation."""
    save_s: PositiveReal = 3600.0
    """Waiting for a save."""
    heartbeat_s: PositiveReal = 5.0
    """Each rank writes so often where it is."""


class StragglersConfig(Section):
    """Ranks whose own work takes longer than that of the others are named in events.jsonl."""

    every: Count = 100
    """Steps that are looked at together; 0: never."""
    ratio: Annotated[Real, Field(gt=1)] = 1.5
    """Slow is who takes so many times the median of all ranks ..."""
    least_s: Annotated[Real, Field(ge=0)] = 0.02
    """... and so much longer."""


class SelfcheckConfig(Section):
    """Before the first step of each start: does every rank compute, communicate and write as it should?"""

    enabled: bool = False
    ratio: Annotated[Real, Field(gt=1)] = 2.0
    """Slow is who reaches less than the median of all ranks divided by this."""
    bad: Literal["tell", "stop", "exclude"] = "tell"
    """What a wrong or slow rank leads to: an event; the end of the start; with a hostfile, a start without
    its host."""


class AlertConfig(Section):
    """Who is told when a run needs a person; the message is JSON: run, event, step, cause."""

    command: Annotated[tuple[str, ...], AfterValidator(_program)] = ()
    """A program and its arguments; it gets the message on its standard input. In the program's path `~` and
    variables are expanded, its arguments are passed as they are."""
    url_variable: str | None = None
    """Name of the environment variable that holds the URL of a webhook, which gets the message by POST."""
    events: tuple[
        Literal["restart", "give up", "fail", "fault", "rollback", "slow", "preempt", "end"], ...
    ] = (
        "restart",
        "give up",
        "fail",
        "fault",
        "rollback",
        "slow",
    )
    """Which events are told."""


class RestartConfig(Section):
    """What `megatrain train` does when the ranks end by a fault: it starts them again from the newest
    checkpoint."""

    most: Count = 100
    """At most so many times; 0: never."""
    without_progress: PositiveInt = 3
    """Gives up with exit code 76 when so many starts in a row came no further than those before."""
    wait_s: Annotated[Real, Field(ge=0)] = 5.0
    """Before the first restart; doubled for each start without progress, up to 16 times."""


class SpikesConfig(Section):
    """A loss or gradient norm far above that of the last updates; judged before the weights change."""

    action: Annotated[Literal["off", "skip", "rollback", "stop"], BeforeValidator(_switch)] = "off"
    """`skip` leaves the step out, `rollback` also goes back to a checkpoint, `stop` ends the run."""
    window: Annotated[Whole, Field(ge=8, le=1024)] = 64
    """Updates that a step is compared with; kept in each checkpoint."""
    warmup_updates: Annotated[Whole, Field(ge=4)] = 32
    """Nothing is judged before so many updates."""
    loss_threshold: PositiveReal = 8.0
    """Robust standard deviations above the window's median."""
    loss_floor: Annotated[Real, Field(ge=0)] = 0.1
    """And this fraction of the median on top, for a curve that is nearly flat."""
    norm_threshold: PositiveReal = 8.0
    """Of the gradient norm before clipping."""
    norm_floor: Annotated[Real, Field(ge=0)] = 2.0
    """2: at least three times the median; gradient norms vary more than losses, and are clipped besides."""


class ResilienceConfig(Section):
    signals: tuple[Literal["SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT"], ...] = ("SIGTERM", "SIGUSR1")
    """A rank that gets one of these asks for a save and a stop with exit code 75."""
    save_signal: Literal["SIGUSR1", "SIGUSR2"] | None = "SIGUSR2"
    """A rank that gets this one asks for a checkpoint; training goes on."""
    lease_s: PositiveReal = 60.0
    """An attempt that has not renewed its lease on the run's folder for so long can be followed by another.
    """
    not_finite: Literal["skip", "rollback", "stop"] = "skip"
    """When a loss or gradient is not finite: leave the step out, also go back to a checkpoint, or end."""
    spikes: SpikesConfig = SpikesConfig()
    max_skipped_in_row: PositiveInt = 10
    """With `skip`: so many steps left out in a row are too many."""
    too_many_skipped: Literal["rollback", "stop"] = "rollback"
    """Then go back to the newest checkpoint before them and leave their samples out, or end the run."""
    max_rollbacks: PositiveInt = 3
    """The run ends instead of going back to the same checkpoint more often than this."""
    check_replicas_every: Count = 200
    """Steps between checks that ranks hold equal weights where they must; 0: never."""
    grace_s: PositiveReal = 120.0
    """After a signal the ranks have so long to save, before they are ended. SLURM: below the seconds of
    --signal."""
    watchdog: WatchdogConfig = WatchdogConfig()
    restarts: RestartConfig = RestartConfig()
    stragglers: StragglersConfig = StragglersConfig()
    selfcheck: SelfcheckConfig = SelfcheckConfig()
    alert: AlertConfig = AlertConfig()
    collective_timeout_s: Annotated[Whole, Field(gt=0, le=1_000_000)] = 1800
    """A collective that takes longer ends the rank."""


class FaultConfig(Section):
    """A fault that is rehearsed: what happens to the run when it strikes?"""

    at: str
    """The moment, `step` or `checkpoint.commit` for instance; docs/operations.md has all."""
    do: str = "kill"
    """What happens to the rank then: kill, crash, hang, slow, disconnect, full; at loss and gradient nan or
    spike."""
    rank: Count = 0
    step: PositiveInt | None = None
    """In this step; default: by `hit`."""
    hit: PositiveInt = 1
    """The so manyth time that the rank comes to the place."""
    again: bool = False
    """Also at each time after `hit`."""
    attempt: PositiveInt | None = 1
    """In this start of the run alone; null: in each."""
    seconds: PositiveReal = 1.0
    """Of `slow`."""


class ObserveConfig(Section):
    print_every: PositiveInt = 1
    """Steps between lines on the terminal; metrics.jsonl has every step."""
    wandb: Annotated[Literal["off", "offline", "online", "auto"], BeforeValidator(_switch)] = "auto"
    """`auto`: online when an API key is set, else offline files in the run folder."""
    wandb_project: str = "megatrain"
    peak_tflops: PositiveReal | None = None
    """Peak of one device, for MFU; default: the published peak of a known GPU, else measured at start."""
    sample_ids: bool = False
    """Ranks that read data write the samples of each step to the run's logs/samples-rank-0000.jsonl."""


class ClusterConfig(Section):
    launcher: Literal["deepspeed", "torchrun"] = "deepspeed"
    """Starts the ranks of `megatrain train`."""
    processes: PositiveInt | None = None
    """Ranks on this machine; default: its GPUs, or parallel.tensor where there is none. Not with a hostfile.
    """
    hostfile: PathText | None = None
    """`HOST slots=N` a line: run on these hosts, by the deepspeed launcher and pdsh over ssh."""
    master_addr: str | None = None
    """Of rank 0, with a hostfile; default: what its host says of itself."""
    master_port: Annotated[Whole, Field(ge=1024, le=65535)] | None = None
    """Default: a free one."""


class ExportConfig(Section):
    dtype: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Of the exported weights."""
    shard_gib: PositiveReal = 4.0
    """Largest size of one safetensors file."""


class Config(Section):
    """One run, complete."""

    version: Literal[1] = 1
    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    parallel: ParallelConfig = ParallelConfig()
    precision: PrecisionConfig = PrecisionConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    resilience: ResilienceConfig = ResilienceConfig()
    observe: ObserveConfig = ObserveConfig()
    cluster: ClusterConfig = ClusterConfig()
    export: ExportConfig = ExportConfig()
    faults: tuple[FaultConfig, ...] = ()
    """Faults to rehearse, e.g. `[{at: step, step: 20, rank: 1, do: kill}]`; none in a run that matters."""
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
