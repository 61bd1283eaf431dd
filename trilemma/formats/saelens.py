"""SAELens folders: `cfg.json` and `sae_weights.safetensors`, read and written."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from trilemma.formats import files, folding
from trilemma.matching_pursuit import Pursuit

Activation = Literal["relu", "topk", "jumprelu", "gated", "tree", "matching_pursuit"]

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"

# Without a version of at least 6 SAELens drops everything else in the metadata.
_VERSION = "6.54.0"
_ARCHITECTURES: dict[Activation, str] = {
    "relu": "standard",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "matching_pursuit": "matching_pursuit",
    # Ours: SAELens knows no trees, and says so of this name.
    "tree": "trilemma_tree",
}
# Training checkpoints, whose one threshold becomes every latent's.
_BATCHTOPK = ("batchtopk", "matryoshka_batchtopk")
_TRANSCODERS: dict[Activation, str] = {
    "relu": "transcoder",
    "jumprelu": "jumprelu_transcoder",
    # Ours, as trees are: SAELens's transcoders have no other activation function.
    "topk": "trilemma_topk_transcoder",
    "gated": "trilemma_gated_transcoder",
    "tree": "trilemma_tree_transcoder",
}
# Ours: SAELens has none.
_CROSSCODERS: dict[Activation, str] = {
    name: f"trilemma_{name}_crosscoder"
    for name in ("relu", "topk", "jumprelu", "gated", "tree")
}


class _Form(NamedTuple):
    """What an architecture is."""

    activation: Activation
    is_transcoder: bool = False
    has_skip: bool = False
    is_crosscoder: bool = False


_READABLE: dict[str, _Form] = (
    {name: _Form(activation) for activation, name in _ARCHITECTURES.items()}
    | dict.fromkeys(_BATCHTOPK, _Form("jumprelu"))
    | {
        name.replace("transcoder", f"{prefix}transcoder"): _Form(
            activation, is_transcoder=True, has_skip=bool(prefix)
        )
        for activation, name in _TRANSCODERS.items()
        for prefix in ("", "skip_")
    }
    | {
        name: _Form(activation, is_crosscoder=True)
        for activation, name in _CROSSCODERS.items()
    }
)
_GATES = ("b_gate", "b_mag", "r_mag")
# Before version 6 the metadata stood beside the rest, and some keys had other names.
_METADATA = ("model_name", "hook_name", "context_size", "dataset_path", "prepend_bos")
_RENAMED = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}


class SAEFile(NamedTuple):
    """What a folder holds of an SAE."""

    activation: Activation
    """Its activation function at inference."""
    tensors: dict[str, Tensor]
    """W_enc, W_dec, b_dec; for gated b_gate, b_mag and r_mag, for all others but
    matching pursuit b_enc; for JumpReLU threshold; for a skip W_skip; float32. For
    trees parents, int64."""
    k: int | None
    """Latents kept for each row, for TopK alone."""
    metadata: dict[str, Any]
    """Where the SAE comes from, as JSON values (hence `Any`)."""
    pursuit: Pursuit | None = None
    """When matching pursuit ends, for it alone."""
    is_transcoder: bool = False
    """Whether it reconstructs other activations than it reads, which b_dec then does
    not centre."""
    widths: tuple[int, ...] = ()
    """Of a crosscoder, the widths of the hooks that make a row."""


def write(file: SAEFile, folder: str | Path) -> None:
    """Write an SAE into a folder; equal SAEs give equal bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    d_in, d_sae = file.tensors["W_enc"].shape
    form = _Form(
        file.activation,
        is_transcoder=file.is_transcoder,
        has_skip="W_skip" in file.tensors,
        is_crosscoder=bool(file.widths),
    )
    architecture = next(name for name, each in _READABLE.items() if each == form)
    config: dict[str, Any] = {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": not file.is_transcoder,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {**file.metadata, "sae_lens_version": _VERSION},
    }
    if file.is_transcoder:
        config["d_out"] = len(file.tensors["b_dec"])
    if file.widths:
        config["hook_widths"] = list(file.widths)
    if file.k is not None:
        config |= {"k": file.k, "rescale_acts_by_decoder_norm": False}
    if file.pursuit is not None:
        config |= {
            "max_iterations": file.pursuit.max_steps,
            "residual_threshold": file.pursuit.residual_threshold,
            "stop_on_duplicate_support": file.pursuit.stops_at_repeat,
        }
    files.write_json(folder / CONFIG_FILE, config)
    tensors = {
        name: _turned(name, tensor.detach().cpu())
        for name, tensor in sorted(file.tensors.items())
        if name in _names(architecture)
    }
    save_file(tensors, folder / WEIGHTS_FILE)


def read(folder: str | Path) -> SAEFile:
    """Return the SAE in a folder that SAELens, or `write`, made.

    An input that is not centred by b_dec, and activations rescaled by decoder norms,
    are folded into the weights. Raises a ValueError for what cannot be folded.
    """
    folder = Path(folder)
    path = folder / CONFIG_FILE
    config = _modern(path, files.read_json(path))
    architecture = str(config.get("architecture"))
    if architecture not in _READABLE:
        raise ValueError(
            f"{folder}: found architecture {config.get('architecture')!r}; one of "
            f"{', '.join(map(repr, _READABLE))} can be read"
        )
    for key in ("normalize_activations", "reshape_activations"):
        if config.get(key, "none") != "none":
            raise ValueError(
                f"{folder}: found {key}={config[key]!r}; only 'none' can be read"
            )
    if config.get("finetuning_scaling_factor", False):
        raise ValueError(
            f"{folder}: found finetuning_scaling_factor=True; only False can be read"
        )
    activation, is_transcoder, _, is_crosscoder = _READABLE[architecture]
    tensors = _tensors(folder / WEIGHTS_FILE, architecture)
    pursuit = None
    if activation == "matching_pursuit":
        pursuit = _pursuit(config, d_in=len(tensors["b_dec"]))
    if not is_transcoder and not config.get("apply_b_dec_to_input", True):
        # A pursuit that does not subtract b_dec does not add it either.
        tensors = (
            folding.centred(tensors)
            if pursuit is None
            else {**tensors, "b_dec": torch.zeros_like(tensors["b_dec"])}
        )
    # SAELens heeds it in TopK's architectures alone.
    if "topk" in architecture and config.get("rescale_acts_by_decoder_norm", False):
        tensors = folding.unit_decoder(tensors)
    k = None
    if activation == "topk":
        k = files.count(path, config, "k", most=tensors["W_enc"].shape[1])
    metadata = files.section(path, config, "metadata")
    widths: tuple[int, ...] = ()
    if is_crosscoder:
        widths = _widths(folder, config, d_in=len(tensors["b_dec"]))
    return SAEFile(
        activation,
        tensors,
        k,
        metadata,
        pursuit,
        is_transcoder=is_transcoder,
        widths=widths,
    )


def _widths(folder: Path, config: dict[str, Any], *, d_in: int) -> tuple[int, ...]:
    """Return how wide each of a crosscoder's hooks is."""
    found = config.get("hook_widths")
    if (
        not isinstance(found, list)
        or not all(isinstance(width, int) and width > 0 for width in found)
        or sum(found) != d_in
    ):
        raise ValueError(
            f"{folder}: found hook_widths {found!r}; they are a list of widths whose "
            f"sum is d_in, which is {d_in}"
        )
    return tuple(found)


def _modern(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return a config from before version 6 in today's words; others as they are."""
    if "metadata" in config:
        return config
    config = {_RENAMED.get(key, key): value for key, value in config.items()}
    name = config.get("activation_fn") or "relu"
    if name not in ("relu", "topk", "topk-with-relu"):
        raise ValueError(
            f"{path}: found activation_fn {name!r}; only 'relu' and 'topk' can be read"
        )
    normalised = config.get("normalize_activations")
    today: dict[str, Any] = {
        "architecture": config.get("architecture", "standard"),
        "normalize_activations": {
            None: "none",
            False: "none",
            True: "expected_average_only_in",
        }.get(normalised, normalised),
        "metadata": {key: config[key] for key in _METADATA if key in config},
    }
    if name != "relu":
        k = (config.get("activation_fn_kwargs") or {}).get("k", config.get("k"))
        today |= {"architecture": "topk", "k": k}
    return config | today


def _pursuit(config: dict[str, Any], d_in: int) -> Pursuit:
    most = config.get("max_iterations")
    return Pursuit(
        max_steps=d_in if most is None else int(most),
        residual_threshold=float(config.get("residual_threshold", 1e-2)),
        stops_at_repeat=bool(config.get("stop_on_duplicate_support", True)),
    )


def _names(architecture: str) -> list[str]:
    """Return which tensors a file of an architecture has."""
    if architecture == "matching_pursuit":
        return ["W_dec", "b_dec"]
    activation, _, has_skip, _ = _READABLE[architecture]
    names = ["W_dec", "W_enc", "b_dec"]
    names += ["W_skip"] if has_skip else []
    names += _GATES if activation == "gated" else ["b_enc"]
    names += ["parents"] if activation == "tree" else []
    if architecture in _BATCHTOPK:
        return [*names, "topk_threshold"]
    return names + (["threshold"] if activation == "jumprelu" else [])


def _turned(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor as the other side has it: SAELens's W_skip is `[d_out, d_in]`."""
    return (tensor.T if name == "W_skip" else tensor).contiguous()


def _tensors(path: Path, architecture: str) -> dict[str, Tensor]:
    found = files.checked(
        path,
        files.without_scaling(path, files.read_safetensors(path)),
        _names(architecture),
        f"an SAE of {architecture}",
    )
    tensors = {name: _turned(name, tensor) for name, tensor in found.items()}
    if architecture in _BATCHTOPK:
        cut = tensors.pop("topk_threshold")
        value = files.scalar(path, "topk_threshold", cut)
        tensors["threshold"] = torch.full_like(tensors["b_enc"], value)
    if architecture == "matching_pursuit":
        tensors["W_enc"] = tensors["W_dec"].movedim(0, -1).contiguous()
    is_transcoder = _READABLE[architecture].is_transcoder
    files.checked_shapes(path, tensors, is_transcoder=is_transcoder)
    if "parents" in tensors:
        _check_parents(path, tensors["parents"])
    return tensors


def _check_parents(path: Path, parents: Tensor) -> None:
    number = torch.arange(len(parents))
    is_root = parents == -1
    is_below = ~is_root & (parents >= 0) & (parents < number)
    if not bool((is_root | is_below).all()) or not bool((parents.diff() >= 0).all()):
        raise ValueError(
            f"{path}: found parents that form no trees; each is -1 or an earlier "
            "latent, in ascending order"
        )
