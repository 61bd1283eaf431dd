"""One line on the machine and the libraries, to stand beside figures."""

import datetime
import importlib.metadata
import os
import platform

import torch

_PACKAGES = ("torch", "transformers", "transformer-lens", "zarr")


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
