"""SAELens folders: `cfg.json` and `sae_weights.safetensors`, read and written."""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

Activation = Literal["relu", "topk", "jumprelu", "gated", "tree"]

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"

# Without a version of at least 6 SAELens drops everything else in the metadata.
_VERSION = "6.54.0"
_ARCHITECTURES: dict[Activation, str] = {
    "relu": "standard",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    # Ours: SAELens knows no trees, and says so of this name.
    "tree": "trilemma_tree",
}
_SHARED_TENSORS = ("W_dec", "W_enc", "b_dec", "b_enc")
_ADDED_TENSORS: dict[Activation, tuple[str, ...]] = {
    "relu": (),
    "topk": (),
    "jumprelu": ("threshold",),
    "gated": ("b_mag", "r_mag"),
    "tree": ("parents",),
}


class SAEFile(NamedTuple):
    """What a folder holds of an SAE."""

    activation: Activation
    """Its activation function at inference."""
    tensors: dict[str, Tensor]
    """W_enc, b_enc, W_dec, b_dec and what the activation function adds; float32.

    For JumpReLU threshold; for gated r_mag and b_mag, and b_enc is the gates' bias; for
    tree parents, int64.
    """
    k: int | None
    """Latents kept for each row, for TopK alone."""
    metadata: dict[str, Any]
    """Where the SAE comes from, as JSON values (hence `Any`)."""


def write(file: SAEFile, folder: str | Path) -> None:
    """Write an SAE into a folder; equal SAEs give equal bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    d_in, d_sae = file.tensors["W_enc"].shape
    config: dict[str, Any] = {
        "architecture": _ARCHITECTURES[file.activation],
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {**file.metadata, "sae_lens_version": _VERSION},
    }
    if file.k is not None:
        config |= {"k": file.k, "rescale_acts_by_decoder_norm": False}
    text = json.dumps(config, indent=2, sort_keys=True, allow_nan=False)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in file.tensors.items()
    }
    if file.activation == "gated":
        tensors["b_gate"] = tensors.pop("b_enc")
    save_file(dict(sorted(tensors.items())), folder / WEIGHTS_FILE)


def read(folder: str | Path) -> SAEFile:
    """Return the SAE in a folder that SAELens, or `write`, made.

    An input that is not centred by b_dec, and activations rescaled by decoder norms,
    are folded into the weights. Raises a ValueError for what cannot be folded.
    """
    folder = Path(folder)
    config = _config(folder)
    activation = _activation(folder, config)
    for key in ("normalize_activations", "reshape_activations"):
        if config.get(key, "none") != "none":
            raise ValueError(
                f"{folder}: found {key}={config[key]!r}; only 'none' can be read"
            )
    tensors = _tensors(folder, activation)
    if not config.get("apply_b_dec_to_input", True):
        tensors["b_enc"] = tensors["b_enc"] + tensors["b_dec"] @ tensors["W_enc"]
    if config.get("rescale_acts_by_decoder_norm", False):
        norm = tensors["W_dec"].norm(dim=1)
        tensors["W_enc"] = tensors["W_enc"] * norm
        tensors["b_enc"] = tensors["b_enc"] * norm
        tensors["W_dec"] = tensors["W_dec"] / norm[:, None]
    k = int(config["k"]) if activation == "topk" else None
    return SAEFile(activation, tensors, k, dict(config.get("metadata", {})))


def _config(folder: Path) -> dict[str, Any]:
    try:
        text = (folder / CONFIG_FILE).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"{folder}: found no {CONFIG_FILE}; name a folder with {CONFIG_FILE} and "
            f"{WEIGHTS_FILE}"
        ) from error
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / CONFIG_FILE}: is not JSON ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{folder / CONFIG_FILE}: is not a JSON object")
    return config


def _activation(folder: Path, config: dict[str, Any]) -> Activation:
    found = config.get("architecture")
    for activation in get_args(Activation):
        if _ARCHITECTURES[activation] == found:
            result: Activation = activation
            return result
    raise ValueError(
        f"{folder}: found architecture {found!r}; one of "
        f"{', '.join(map(repr, _ARCHITECTURES.values()))} can be read"
    )


def _tensors(folder: Path, activation: Activation) -> dict[str, Tensor]:
    path = folder / WEIGHTS_FILE
    try:
        tensors = load_file(path)
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder}: found no {WEIGHTS_FILE}; the folder is not complete"
        ) from error
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: is no whole safetensors file ({error})") from error
    if activation == "gated" and "b_gate" in tensors:
        tensors["b_enc"] = tensors.pop("b_gate")
    wanted = sorted([*_SHARED_TENSORS, *_ADDED_TENSORS[activation]])
    if sorted(tensors) != wanted:
        raise ValueError(
            f"{path}: found tensors {', '.join(sorted(tensors))}; an SAE with "
            f"{activation} has {', '.join(wanted)}"
        )
    return {
        name: tensor if name == "parents" else tensor.float()
        for name, tensor in tensors.items()
    }
