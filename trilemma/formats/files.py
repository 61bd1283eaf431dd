"""Files that hold an SAE, opened without trust: JSON, safetensors, torch, NumPy."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

# What torch says before it, and after it, is how to run the code all the same.
_REFUSAL = re.compile(r"WeightsUnpickler error:\s*(.+?)(?:\. Please|$)", re.MULTILINE)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object (hence `Any`) in a file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"{path.parent}: found no {path.name}; the folder is not complete"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: is not a JSON object")
    return value


def section(path: Path, config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the object below a key of a file's JSON; empty where there is none."""
    value = config.get(key)
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{path}: found {key} {value!r}; it is a JSON object")
    return value or {}


def count(path: Path, config: Mapping[str, Any], key: str, *, most: int) -> int:
    """Return the whole number below a key of a file's JSON, from 1 to `most`."""
    value: Any = config.get(key)
    if value not in range(1, most + 1):
        raise ValueError(
            f"{path}: found {key} {value!r}; it is a whole number from 1 to {most:,}"
        )
    return int(value)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object (hence `Any`); equal objects give equal bytes."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ValueError(
            f"{path.parent}: found no {path.name}; the folder is not complete"
        ) from error
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: is no whole safetensors file ({error})") from error


def read_torch(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a torch file, in which no code is run.

    A training backup, which has them below the key `ae`, is read too.
    """
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may end in any
        raise ValueError(
            f"{path}: is no torch file of plain tensors ({_reason(error)}); save the "
            "state_dict alone"
        ) from error
    if isinstance(value, dict) and isinstance(value.get("ae"), dict):
        value = value["ae"]
    if not isinstance(value, dict) or not all(
        isinstance(name, str)
        and isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        for name, tensor in value.items()
    ):
        raise ValueError(
            f"{path}: holds something else than named tensors; save the state_dict "
            "alone"
        )
    return value


def read_npz(path: Path) -> dict[str, Tensor]:
    """Return the arrays of a NumPy archive, in which no pickle is opened."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays}
    except Exception as error:  # a damaged archive may end in any
        raise ValueError(
            f"{path}: is no whole archive of plain arrays ({_reason(error)})"
        ) from error


def checked(
    path: Path, tensors: Mapping[str, Tensor], wanted: Sequence[str], what: str
) -> dict[str, Tensor]:
    """Return the tensors, numbers as float32, if they are those that are wanted."""
    if sorted(tensors) != sorted(wanted):
        raise ValueError(
            f"{path}: found tensors {', '.join(sorted(tensors))}; {what} has "
            f"{', '.join(sorted(wanted))}"
        )
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


def without_scaling(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors less a factor of fine-tuning, if it changes nothing.

    For a time SAELens wrote a `scaling_factor` of ones into every file.
    """
    factor = tensors.get("scaling_factor", torch.ones(()))
    if not torch.equal(factor, torch.ones_like(factor)):
        raise ValueError(
            f"{path}: found a scaling_factor other than 1, which cannot be read; use "
            "an SAE without fine-tuning"
        )
    return {name: t for name, t in tensors.items() if name != "scaling_factor"}


def scalar(path: Path, name: str, tensor: Tensor) -> float:
    """Return the finite number that a tensor of one element holds."""
    if tensor.numel() != 1 or not torch.isfinite(tensor).all():
        raise ValueError(
            f"{path}: found {name} of shape {tuple(tensor.shape)}; it is one number, "
            "and finite"
        )
    return tensor.item()


def checked_shapes(
    path: Path, tensors: Mapping[str, Tensor], *, is_transcoder: bool = False
) -> None:
    """Raise a ValueError unless the tensors, by this project's names, fit together.

    What a transcoder decodes to may have another width than what it encodes.
    """
    shape = tuple(tensors["W_enc"].shape)
    if len(shape) != len(("d_in", "d_sae")) or not all(shape):
        raise ValueError(
            f"{path}: found an encoder of shape {shape}; it has two sides, neither "
            "of them 0"
        )
    d_in, d_sae = shape
    d_out = tensors["b_dec"].numel() if is_transcoder else d_in
    sides = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_out), "b_dec": (d_out,)}
    sides["W_skip"] = (d_in, d_out)
    for name, tensor in sorted(tensors.items()):
        wanted = sides.get(name, (d_sae,))
        if tuple(tensor.shape) != wanted:
            raise ValueError(
                f"{path}: found {name} of shape {tuple(tensor.shape)}; beside an "
                f"encoder of shape {shape} it has {wanted}"
            )
        wanted_type = torch.int64 if name == "parents" else torch.float32
        if tensor.dtype != wanted_type:
            raise ValueError(
                f"{path}: found {name} of {tensor.dtype}; it is {wanted_type}"
            )
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: found {name} with values that are not finite")


def _reason(error: Exception) -> str:
    """Return in one line why torch or NumPy could not read a file."""
    if refusal := _REFUSAL.search(str(error)):
        return refusal[1]
    return next(iter(str(error).splitlines()), type(error).__name__)
