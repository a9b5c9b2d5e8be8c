"""How many ranks a machine gets."""

import pytest
import torch

from megatrain.cluster.launchers import local_world
from megatrain.config import parse_config
from megatrain.errors import UserError


def test_one_rank_a_gpu_or_as_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpus, override, wanted in ((4, "null", 4), (4, "2", 2), (0, "5", 5), (0, "null", 1)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        assert local_world(parse_config("", [f"cluster.processes={override}"])) == wanted
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(UserError, match=r"cluster\.processes \(8\) is above the 4 GPUs"):
        local_world(parse_config("", ["cluster.processes=8"]))
