"""OpenMOSS's folders (Language-Model-SAEs, Llama Scope): `config.json` and weights."""

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from trilemma.formats import files, folding
from trilemma.formats.saelens import Activation, SAEFile

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "sae_weights.safetensors"
_ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "topk": "topk",
    "jumprelu": "jumprelu",
}
_NORM = "dataset_average_activation_norm."
# Our names, those of today, and those of Llama Scope, whose matrices are transposed.
_NAMES = {
    "W_enc": ("W_E", "encoder.weight"),
    "b_enc": ("b_E", "encoder.bias"),
    "W_dec": ("W_D", "decoder.weight"),
    "b_dec": ("b_D", "decoder.bias"),
}
_THRESHOLD = "log_jumprelu_threshold"
_UNREADABLE = {"sae_type": "sae", "use_glu_encoder": False, "use_decoder_bias": True}


def read(folder: str | Path) -> SAEFile:
    """Return the SAE in a folder of OpenMOSS's.

    They encode z = s x W_E + b_E, select by n z, with n the norms of the rows of W_D
    where `sparsity_include_decoder_norm` is set and else 1, and decode
    (acts W_D + b_D) / s, with s = sqrt(d_model) over the data set's average norm where
    `norm_activation` is `dataset-wise`. Selection by n z > exp(log threshold) is that
    by z > exp(log threshold) / n; for TopK, n goes into the weights. Then W_E takes
    the factor s, and W_D and b_D lose it.
    """
    folder = Path(folder)
    config = files.read_json(folder / CONFIG_FILE)
    for key, wanted in _UNREADABLE.items():
        if config.get(key, wanted) != wanted:
            raise ValueError(
                f"{folder}: found {key}={config[key]!r}; only {wanted!r} can be read"
            )
    act_fn = str(config.get("act_fn"))
    if act_fn not in _ACTIVATIONS:
        raise ValueError(
            f"{folder}: found act_fn={act_fn!r}; one of "
            f"{', '.join(map(repr, _ACTIVATIONS))} can be read"
        )
    activation = _ACTIVATIONS[act_fn]
    path = folder / WEIGHTS_FILE
    found = files.read_safetensors(path)
    norms = {
        name.removeprefix(_NORM): files.scalar(path, name, found.pop(name))
        for name in list(found)
        if name.startswith(_NORM)
    }
    tensors = _tensors(path, found, activation)
    d_in, d_sae = tensors["W_enc"].shape
    scale = _scale(folder, config, norms, d_in=d_in)
    if config.get("sparsity_include_decoder_norm", True):
        if activation == "topk":
            tensors = folding.unit_decoder(tensors)
        elif activation == "jumprelu":
            threshold = tensors["threshold"] / folding.decoder_norms(tensors)
            tensors["threshold"] = threshold.float()
    if not config.get("apply_decoder_bias_to_pre_encoder", False):
        tensors = folding.centred(tensors)
    tensors["W_enc"] = tensors["W_enc"] * scale
    tensors["W_dec"] = tensors["W_dec"] / scale
    tensors["b_dec"] = tensors["b_dec"] / scale
    k = None
    if activation == "topk":
        k = files.count(folder / CONFIG_FILE, config, "top_k", most=d_sae)
    metadata = {"hook_name": config.get("hook_point_in")}
    return SAEFile(activation, tensors, k, metadata)


def _tensors(
    path: Path, found: dict[str, Tensor], activation: Activation
) -> dict[str, Tensor]:
    is_old = "encoder.weight" in found
    names = {ours: theirs[is_old] for ours, theirs in _NAMES.items()}
    if activation == "jumprelu":
        names["threshold"] = (
            _THRESHOLD if is_old else f"activation_function.{_THRESHOLD}"
        )
    found = files.checked(path, found, list(names.values()), "an SAE of OpenMOSS")
    tensors = {ours: found[theirs] for ours, theirs in names.items()}
    if is_old:
        for name in ("W_enc", "W_dec"):
            tensors[name] = tensors[name].T.contiguous()
    if activation == "jumprelu":
        tensors["threshold"] = tensors["threshold"].exp()
    files.checked_shapes(path, tensors)
    return tensors


def _scale(
    folder: Path, config: dict[str, Any], norms: dict[str, float], *, d_in: int
) -> float:
    """Return what activations are multiplied by before they are encoded."""
    kind = config.get("norm_activation", "inference")
    if kind == "inference":
        return 1.0
    hooks = [config.get("hook_point_in"), config.get("hook_point_out")]
    if kind != "dataset-wise" or hooks[0] != (hooks[1] or hooks[0]):
        raise ValueError(
            f"{folder}: found norm_activation={kind!r} from {hooks[0]!r} to "
            f"{hooks[1]!r}; only 'dataset-wise' on one hook and 'inference' can be read"
        )
    norm = norms.get(str(hooks[0]), 0.0)
    if norm <= 0:
        raise ValueError(
            f"{folder}: found no positive {_NORM}{hooks[0]} beside norm_activation="
            "'dataset-wise'; the weights are not whole"
        )
    return math.sqrt(d_in) / norm
