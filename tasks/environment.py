"""What RUN.json says: where a stage ran, how long it took, how much memory it had."""

import contextlib
import datetime
import importlib.metadata
import platform
import resource
import sys
from collections.abc import Iterator

import torch

from storage.artifacts import Environment
from trilemma.config.stages import Compute

_PACKAGES = (
    "torch",
    "numpy",
    "zarr",
    "numcodecs",
    "scikit-learn",
    "transformers",
    "transformer-lens",
    "datasets",
    "tokenizers",
    "plotly",
    "prefect",
    "wandb",
)
_KIB = 1 if sys.platform == "darwin" else 1024


@contextlib.contextmanager
def prepared(compute: Compute) -> Iterator[None]:
    """Give this process what a run asks for, its CPU threads, and take it back."""
    before = torch.get_num_threads()
    torch.set_num_threads(compute.threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device(compute: Compute) -> str:
    """Return the device to work on.

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    if compute.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "compute.device: found 'cuda', but torch sees no GPU; use auto"
        )
    return compute.device


def read(compute: Compute, seconds: float, *, stage: str) -> Environment:
    """Return a stage's environment; the peak memory is this process's so far."""
    return Environment(
        seconds=round(seconds, 3),
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB,
        device=device(compute),
        processor=_processor(),
        threads=torch.get_num_threads(),
        ranks=compute.ranks_per_sae if stage == "training" else 1,
        versions=_versions(),
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def differences(before: Environment, now: Environment) -> list[str]:
    """Return what has changed that may change a stage's bytes, in words."""
    found = [
        f"{name} was {getattr(before, name)}, is {getattr(now, name)}"
        for name in ("device", "processor", "threads", "ranks")
        if getattr(before, name) != getattr(now, name)
    ]
    for name in sorted(set(before.versions) | set(now.versions)):
        old, new = before.versions.get(name), now.versions.get(name)
        if old != new:
            found.append(f"{name} was {old}, is {new}")
    return found


def _processor() -> str:
    """Return the kind of processor; matrix products differ between kinds."""
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {capability}"


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
