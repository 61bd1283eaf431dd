"""What the machine is, for a line beside figures, and how fast it multiplies."""

import datetime
import importlib.metadata
import os
import platform
import time

import torch

_PACKAGES = ("torch", "transformers", "transformer-lens", "zarr")
_RATE_SECONDS = 0.5


def line() -> str:
    """Return the day, the processor or GPU, threads and versions."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES
    )
    return (
        f"{datetime.date.today()}: {platform.machine()} "
        f"{torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, {gpu}, Python "
        f"{platform.python_version()}, {versions}"
    )


def matmul_rate(
    num_rows: int, inner: int, width: int, *, dtype: torch.dtype, device: str
) -> float:
    """Return the flops a second of one matrix product, repeated into one buffer."""
    left = torch.randn(num_rows, inner, dtype=dtype, device=device)
    right = torch.randn(inner, width, dtype=dtype, device=device)
    out = torch.mm(left, right)
    count = 0
    began = time.perf_counter()
    while (seconds := time.perf_counter() - began) < _RATE_SECONDS:
        torch.mm(left, right, out=out)
        if device == "cuda":
            torch.cuda.synchronize()
        count += 1
    return 2 * count * num_rows * inner * width / seconds
