"""Folders of dictionary_learning: `ae.pt` and `config.json`, read and written."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trilemma.formats import files, folding
from trilemma.formats.saelens import Activation, SAEFile

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "ae.pt"
_BUFFERS = ("k", "threshold", "group_sizes")
_LAYER = re.compile(r"blocks\.(\d+)\.")
_UNKNOWN = "unknown"


class _Class(NamedTuple):
    activation: Activation
    names: dict[str, str]
    """Our name of each weight, and theirs; a dot means that theirs is transposed
    where it is a matrix."""
    buffers: tuple[str, ...] = ()
    is_centred: bool = True
    """Whether b_dec is subtracted from the input."""


_LINEAR = {"W_enc": "encoder.weight", "W_dec": "decoder.weight"}
_LINEAR_BIASED = _LINEAR | {"b_enc": "encoder.bias"}
_PLAIN = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
_CLASSES = {
    "AutoEncoder": _Class("relu", _LINEAR_BIASED | {"b_dec": "bias"}),
    "AutoEncoderNew": _Class(
        "relu", _LINEAR_BIASED | {"b_dec": "decoder.bias"}, is_centred=False
    ),
    "AutoEncoderTopK": _Class(
        "topk", _LINEAR_BIASED | {"b_dec": "b_dec"}, ("k", "threshold")
    ),
    "BatchTopKSAE": _Class(
        "jumprelu", _LINEAR_BIASED | {"b_dec": "b_dec"}, ("k", "threshold")
    ),
    "MatryoshkaBatchTopKSAE": _Class("jumprelu", _PLAIN, _BUFFERS),
    "JumpReluAutoEncoder": _Class(
        "jumprelu", _PLAIN | {"threshold": "threshold"}, is_centred=False
    ),
    "GatedAutoEncoder": _Class(
        "gated",
        _LINEAR
        | {
            "b_dec": "decoder_bias",
            "b_gate": "gate_bias",
            "b_mag": "mag_bias",
            "r_mag": "r_mag",
        },
    ),
}
_WRITTEN: dict[Activation, str] = {
    "relu": "AutoEncoder",
    "topk": "AutoEncoderTopK",
    "jumprelu": "JumpReluAutoEncoder",
    "gated": "GatedAutoEncoder",
}


def read(folder: str | Path) -> SAEFile:
    """Return the SAE in a trainer's folder.

    BatchTopK and Matryoshka encode relu(z) 1[relu(z) > threshold], which is a JumpReLU
    with that threshold for every latent; their -1 for a threshold never set lets all
    positive latents pass, as 0 does. AutoEncoderNew and JumpReluAutoEncoder do not
    subtract b_dec from their input, which is folded into b_enc. Their loader makes
    AutoEncoder's decoder rows unit vectors, unless told not to; here latents are left
    as they were trained.
    """
    folder = Path(folder)
    config_path = folder / CONFIG_FILE
    config = files.read_json(config_path)
    trainer, buffer, kept = (
        files.section(config_path, config, key)
        for key in ("trainer", "buffer", "metadata")
    )
    name = str(trainer.get("dict_class"))
    if name not in _CLASSES:
        raise ValueError(
            f"{config_path}: found trainer.dict_class {name!r}; one of "
            f"{', '.join(_CLASSES)} can be read"
        )
    kind = _CLASSES[name]
    path = folder / WEIGHTS_FILE
    found = files.checked(
        path, files.read_torch(path), (*kind.names.values(), *kind.buffers), name
    )
    tensors = {ours: _turned(found[name], name) for ours, name in kind.names.items()}
    if kind.activation == "jumprelu" and "threshold" in kind.buffers:
        cut = max(0.0, files.scalar(path, "threshold", found["threshold"]))
        tensors["threshold"] = torch.full_like(tensors["b_enc"], cut)
    files.checked_shapes(path, tensors)
    k = None
    if kind.activation == "topk":
        k = files.count(
            path, {"k": found["k"].tolist()}, "k", most=len(tensors["b_enc"])
        )
    if not kind.is_centred:
        tensors = folding.centred(tensors)
    metadata = kept if "metadata" in config else _metadata(trainer, buffer)
    return SAEFile(kind.activation, tensors, k, metadata)


def write(file: SAEFile, folder: str | Path) -> None:
    """Write an SAE into a folder that dictionary_learning's `load_dictionary` reads.

    SAELens's loader of such folders wants a layer, an LM and a context beside it, and
    knows no AutoEncoderNew.
    """
    if file.activation not in _WRITTEN:
        raise ValueError(
            f"dictionary_learning: found an SAE with {file.activation}; this format "
            f"has only {', '.join(_WRITTEN)}, so choose saelens"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = _class_of(file)
    kind = _CLASSES[name]
    ours = {key: t.detach().float().cpu() for key, t in file.tensors.items()}
    if not kind.is_centred:
        ours = folding.uncentred(ours)
    theirs = {name: _turned(ours[key], name) for key, name in kind.names.items()}
    if file.k is not None:
        theirs["k"] = torch.tensor(file.k, dtype=torch.int32)
        theirs["threshold"] = torch.tensor(-1.0)
    # Named, so that the archive inside does not depend on the folder's name.
    with (folder / WEIGHTS_FILE).open("wb") as stream:
        torch.save(theirs, stream)
    d_in, d_sae = ours["W_enc"].shape
    metadata = file.metadata
    layer = _LAYER.match(str(metadata.get("hook_name")))
    trainer: dict[str, Any] = {
        "dict_class": name,
        "activation_dim": d_in,
        "dict_size": d_sae,
        "layer": None if layer is None else int(layer[1]),
        "lm_name": metadata.get("model_name") or _UNKNOWN,
        "submodule_name": metadata.get("hook_name"),
    }
    if file.k is not None:
        trainer["k"] = file.k
    config = {
        "trainer": trainer,
        "buffer": {"ctx_len": metadata.get("context_size")},
        "metadata": metadata,
    }
    files.write_json(folder / CONFIG_FILE, config)


def _class_of(file: SAEFile) -> str:
    """Return the class whose loader leaves the latents as they are."""
    norms = file.tensors["W_dec"].norm(dim=1)
    is_unit = torch.allclose(norms, torch.ones_like(norms))
    if file.activation == "relu" and not is_unit:
        # AutoEncoder's would make the rows unit vectors, and scale latents by norms.
        return "AutoEncoderNew"
    return _WRITTEN[file.activation]


def _turned(tensor: Tensor, name: str) -> Tensor:
    return tensor.T.contiguous() if name.endswith(".weight") else tensor.contiguous()


def _metadata(trainer: Mapping[str, Any], buffer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a trainer's config tells, in SAELens's words (values of JSON)."""
    found = {"training_architecture": trainer["dict_class"]}
    if trainer.get("lm_name"):
        found["model_name"] = trainer["lm_name"]
    if isinstance(trainer.get("layer"), int):
        # Their trainers read the residual stream after a layer.
        found["hook_name"] = f"blocks.{trainer['layer']}.hook_resid_post"
    context = buffer.get("ctx_len")
    return found if context is None else found | {"context_size": context}
