"""The peak of a device: stated before published before measured."""

import time

import pytest
import torch

from megatrain.observe import Peak, device_peak
from megatrain.observe.peak import published_tflops

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [  # names as torch.cuda.get_device_name gives them
        ("NVIDIA A100-SXM4-80GB", 312.0, 19.5),
        ("NVIDIA A100 80GB PCIe", 312.0, 19.5),
        ("A100-SXM4-40GB", 312.0, 19.5),
        ("NVIDIA H100 80GB HBM3", 989.4, 67.0),
        ("NVIDIA H100 PCIe", 756.0, 51.0),
        ("NVIDIA H100 NVL", 835.5, 60.0),
        ("NVIDIA H200", 989.4, 67.0),
        ("NVIDIA H20", 148.0, 44.0),
        ("NVIDIA GH200 480GB", 989.4, 67.0),
        ("NVIDIA B200", 2250.0, 75.0),
        ("NVIDIA GB200", 2500.0, 80.0),
        ("NVIDIA L4", 121.0, 30.3),
        ("NVIDIA L40S", 362.0, 91.6),
        ("NVIDIA A10", 125.0, 31.2),
        ("NVIDIA A10G", 70.0, 35.0),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6),
        ("Tesla V100-SXM2-32GB", None, 15.7),
        ("NVIDIA Tesla V100-PCIE-16GB", None, 14.0),
        ("Tesla T4", None, 8.1),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None),
        ("NVIDIA GeForce RTX 4090 D", None, None),
        ("AMD Instinct MI300X", None, None),
    ],
)
def test_published(name: str, bf16: float | None, fp32: float | None) -> None:
    assert published_tflops(name, torch.bfloat16) == bf16
    assert published_tflops(name, torch.float32) == fp32
    assert published_tflops(name, torch.float64) is None


def test_what_the_config_states_wins() -> None:
    assert device_peak(123.0, CPU, torch.float32) == Peak(123.0, "stated")


def test_a_cpu_is_measured_in_half_a_second() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        start = time.perf_counter()
        peak = device_peak(None, CPU, dtype)
        assert peak.origin == "measured" and 1e-4 < peak.tflops < 100
        assert time.perf_counter() - start < 2.0  # 0.5 on a machine of its own
