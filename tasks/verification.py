"""Verify all artifacts of a run: every byte is read again, with progress."""

import os
import threading
from collections.abc import Callable
from typing import NamedTuple

from storage import verification
from storage.artifacts import ArtifactError, Parent
from tasks import progress
from tasks.plan import Plan

_MIB = 1 << 20


class Verified(NamedTuple):
    """What was found of a run's artifacts."""

    checked: int
    bytes: int
    faults: dict[str, tuple[str, ...]]
    """Title of each damaged artifact to what is wrong with it, one line each."""


def verify(plan: Plan, *, say: Callable[[str], None]) -> Verified:
    """Return what is wrong with a run's artifacts, reading every byte.

    `say` is told now and then how far it is, where there is no terminal.

    Raises:
        storage.places.PlaceError: a bucket cannot be used.
    """
    faults: dict[str, tuple[str, ...]] = {}
    opened: dict[str, verification.Opened] = {}
    whole: dict[str, Parent] = {}
    for step in plan.steps:
        present = {label: whole.get(p.key) for label, p in step.parents.items()}
        try:
            found = verification.open_manifest(step.location, present)
        except (ArtifactError, OSError) as error:
            faults[step.title] = (_one_line(error),)
            continue
        if found is None:
            continue
        opened[step.title] = found
        if not found.faults:
            whole[step.key] = Parent(key=step.key, digest=found.manifest.digest)
    size = sum(found.bytes for found in opened.values())
    with progress.shown("verify", -(-size // _MIB), "MiB", say=say) as show:
        meter = _Meter(show)
        for title, found in opened.items():
            lines = verification.check(
                found, threads=os.cpu_count() or 1, advance=meter.add
            )
            if lines:
                faults[title] = lines
    titles = [step.title for step in plan.steps if step.title in opened | faults]
    return Verified(len(titles), size, {t: faults[t] for t in titles if t in faults})


class _Meter:
    """A count of bytes to which several threads add."""

    def __init__(self, show: Callable[[int, str], None]) -> None:
        self._show = show
        self._lock = threading.Lock()
        self._bytes = 0

    def add(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            self._show(self._bytes // _MIB, "")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
