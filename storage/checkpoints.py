"""Checkpoints of unfinished training: the last two, each all there or not at all."""

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from storage import durable

_KEEP = 2


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or is of other work."""


class Checkpoint(NamedTuple):
    """The state of one training at a step."""

    step: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, *, key: str) -> None:
    """Write a checkpoint aside, move it into place, and drop all but the last two.

    `key` is that of the artifact in work: it differs with config, version and parents.
    """
    target = folder / f"{checkpoint.step:010d}"
    if target.exists():
        # Work that stands at its step went on from it, or has just written it. To
        # replace it would leave a moment in which a kill finds half of it.
        return
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f"aside-{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    save_file(
        {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()},
        aside / "tensors.safetensors",
    )
    record = {"key": key, "values": checkpoint.values}
    (aside / "values.json").write_text(durable.pretty_json(record))
    for path in (aside / "tensors.safetensors", aside / "values.json", aside):
        durable.sync(path)
    os.rename(aside, target)
    durable.sync(folder)
    for old in _steps(folder)[:-_KEEP]:
        shutil.rmtree(folder / old)


def latest(folder: Path, *, key: str) -> Checkpoint | None:
    """Return the newest checkpoint, or None if there is none.

    Raises:
        CheckpointError: it is damaged, or of an artifact with another key.
    """
    for leftover in folder.glob("aside-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    names = _steps(folder)
    if not names:
        return None
    newest = folder / names[-1]
    try:
        record = json.loads((newest / "values.json").read_text())
        tensors = load_file(newest / "tensors.safetensors")
    except (json.JSONDecodeError, SafetensorError) as error:
        raise CheckpointError(
            f"{newest}: is damaged ({error}); delete it and run again"
        ) from error
    if record.get("key") != key:
        raise CheckpointError(
            f"{newest}: was written by another version, or for another config, than "
            f"that of key {key}; delete {folder} and run again"
        )
    return Checkpoint(int(names[-1]), tensors, record["values"])


def _steps(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.name.isdigit())
