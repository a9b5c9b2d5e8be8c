"""The peak speed of a device, the yardstick of MFU: stated, published, or measured."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Literal

import torch

MEASURE_S = 0.4
"""Time that a measurement takes at most, but for the last matrix product begun."""


@dataclass(frozen=True)
class Peak:
    tflops: float
    origin: Literal["stated", "published", "measured"]


@dataclass(frozen=True)
class _Row:
    """Dense TFLOP/s by the maker's data sheet; fp32 without TF32, bf16 with fp32 accumulation."""

    name: str
    """A regular expression that the whole device name matches, less "NVIDIA" and the like."""
    bf16: float | None
    fp32: float


# The first row that matches counts. Sheets that give only figures "with sparsity" are halved.
_PUBLISHED = (
    _Row(r"GB200.*", 2500.0, 80.0),  # GB200 NVL72 data sheet, a GPU
    _Row(r"B200.*", 2250.0, 75.0),  # HGX B200 data sheet, an eighth
    _Row(r"GH200.*", 989.4, 67.0),  # GH200 data sheet
    _Row(r"H200 NVL.*", 835.5, 60.0),  # H200 data sheet
    _Row(r"H200.*", 989.4, 67.0),  # H200 data sheet, SXM
    _Row(r"H[18]00 PCIe.*", 756.0, 51.0),  # H100 data sheet
    _Row(r"H100 NVL.*", 835.5, 60.0),  # H100 NVL data sheet
    _Row(r"H[18]00.*", 989.4, 67.0),  # H100 data sheet, SXM ("H100 80GB HBM3")
    _Row(r"H20\b.*", 148.0, 44.0),  # H20 data sheet
    _Row(r"A[18]00[ -].*", 312.0, 19.5),  # A100 data sheet, SXM and PCIe
    _Row(r"A30\b.*", 165.0, 10.3),  # A30 data sheet
    _Row(r"A40\b.*", 149.7, 37.4),  # A40 data sheet
    _Row(r"A10G.*", 70.0, 35.0),  # A10G data sheet
    _Row(r"A10\b.*", 125.0, 31.2),  # A10 data sheet
    _Row(r"RTX A6000", 154.8, 38.7),  # RTX A6000 data sheet
    _Row(r"L40S.*", 362.0, 91.6),  # L40S data sheet
    _Row(r"L40\b.*", 181.0, 90.5),  # L40 data sheet
    _Row(r"L4\b.*", 121.0, 30.3),  # L4 data sheet
    _Row(r"V100.*PCI.*", None, 14.0),  # V100 data sheet; 112 in fp16, no bf16 units
    _Row(r"V100.*", None, 15.7),  # V100 data sheet, SXM2; 125 in fp16, no bf16 units
    _Row(r"T4", None, 8.1),  # T4 data sheet; 65 in fp16, no bf16 units
    _Row(r"GeForce RTX 5090", 209.5, 104.8),  # Blackwell RTX white paper
    _Row(r"GeForce RTX 4090", 165.2, 82.6),  # Ada white paper
    _Row(r"GeForce RTX 4080", 97.5, 48.7),  # Ada white paper
    _Row(r"GeForce RTX 3090", 71.0, 35.6),  # GA102 white paper
    _Row(r"GeForce RTX 3080", 59.5, 29.8),  # GA102 white paper, 10 GB
)


def published_tflops(device_name: str, dtype: torch.dtype) -> float | None:
    """The data sheet's figure, None for a device or dtype that has none; a MIG slice is no whole device."""
    name = re.sub(r"^((NVIDIA|Tesla|Quadro)\s+)*", "", device_name).strip()
    if "MIG" in name:
        return None
    for row in _PUBLISHED:
        if re.fullmatch(row.name, name):
            return {torch.bfloat16: row.bf16, torch.float32: row.fp32}.get(dtype)
    return None


def device_peak(config_peak_tflops: float | None, device: torch.device, dtype: torch.dtype) -> Peak:
    """The peak of one device in that dtype: what the config says, else the data sheet, else a measurement.

    A measurement takes about half a second and uses the threads that torch has now.
    """
    if config_peak_tflops is not None:
        return Peak(config_peak_tflops, "stated")
    if device.type == "cuda":
        published = published_tflops(torch.cuda.get_device_name(device), dtype)
        if published is not None:
            return Peak(published, "published")
    return Peak(measure_tflops(device, dtype), "measured")


def measure_tflops(device: torch.device, dtype: torch.dtype) -> float:
    """The fastest matrix product met in `MEASURE_S`, the matrices growing while time allows."""
    end = time.perf_counter() + MEASURE_S
    size, best = (1024 if device.type == "cuda" else 256), 0.0
    largest = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    _product_s(left, right)  # The first one allocates and picks the kernel.
    while time.perf_counter() < end:
        seconds = _product_s(left, right)
        best = max(best, 2 * size**3 / seconds / 1e12)
        # The next size takes 8 times as long, and twice at that.
        if size < largest and time.perf_counter() + 20 * seconds < end:
            size *= 2
            left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
            _product_s(left, right)
    return best


def _product_s(left: torch.Tensor, right: torch.Tensor) -> float:
    if left.device.type == "cuda":
        torch.cuda.synchronize(left.device)
    start = time.perf_counter()
    torch.mm(left, right)
    if left.device.type == "cuda":
        torch.cuda.synchronize(left.device)
    return time.perf_counter() - start
