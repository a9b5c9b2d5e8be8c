"""What a run tells of itself: metrics, events, the terminal, wandb, logs of the ranks, the loss curve."""

from megatrain.observe.history import read_evaluations, read_metrics
from megatrain.observe.log import RunLog, open_log
from megatrain.observe.metrics import Hardware
from megatrain.observe.peak import Peak, device_peak
from megatrain.observe.ranklog import open_rank_log
from megatrain.observe.report import draw_loss_curve

__all__ = [
    "Hardware",
    "Peak",
    "RunLog",
    "device_peak",
    "draw_loss_curve",
    "open_log",
    "open_rank_log",
    "read_evaluations",
    "read_metrics",
]
