"""Sparsify's folders: `cfg.json` and `sae.safetensors`, read and written."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from trilemma.formats import files
from trilemma.formats.saelens import SAEFile

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae.safetensors"
RUN_FILE = "config.json"
"""In the folder above, of the run that trained all hookpoints."""
_LAYER = re.compile(r"(?:.*\.)?(?:layers|h)\.(\d+)(\.mlp)?")
_UNREADABLE = {
    "signed": False,
    "transcode": False,
    "skip_connection": False,
    "activation": "topk",
}


def read(folder: str | Path) -> SAEFile:
    """Return the SAE in a hookpoint's folder of a sparsify run.

    Sparsify encodes topk(relu((x - b_dec) W^T + b)), which equals our relu(topk(...)):
    a latent that is cut off by only one of the two is zero either way. Its encoder is
    stored transposed, its decoder is not. `k` is the annealed one of the moment.
    """
    folder = Path(folder)
    config = files.read_json(folder / CONFIG_FILE)
    for key, wanted in _UNREADABLE.items():
        if config.get(key, wanted) != wanted:
            raise ValueError(
                f"{folder}: found {key}={config[key]!r}; only {wanted!r} can be read"
            )
    path = folder / WEIGHTS_FILE
    wanted_tensors = ("W_dec", "b_dec", "encoder.bias", "encoder.weight")
    found = files.checked(
        path, files.read_safetensors(path), wanted_tensors, "a sparsify SAE"
    )
    tensors = {
        "W_enc": found["encoder.weight"].T.contiguous(),
        "b_enc": found["encoder.bias"],
        "W_dec": found["W_dec"],
        "b_dec": found["b_dec"],
    }
    files.checked_shapes(path, tensors)
    k = files.count(folder / CONFIG_FILE, config, "k", most=len(tensors["b_enc"]))
    return SAEFile("topk", tensors, k, surroundings(folder))


def surroundings(folder: Path) -> dict[str, Any]:
    """Return what the run and the hookpoint's name tell, in SAELens's words.

    Neither is in the folder's files, but both go into what is made of them.
    """
    found: dict[str, Any] = {}
    if layer := _LAYER.fullmatch(folder.name):
        place = "hook_mlp_out" if layer[2] else "hook_resid_post"
        found["hook_name"] = f"blocks.{layer[1]}.{place}"
    run = folder.parent / RUN_FILE
    if run.is_file():
        config = files.read_json(run)
        names = {
            "model_name": "model",
            "dataset_path": "dataset",
            "context_size": "ctx_len",
        }
        found |= {ours: config[key] for ours, key in names.items() if key in config}
    return found


def write(file: SAEFile, folder: str | Path) -> None:
    """Write a TopK SAE into a folder that sparsify loads.

    `normalize_decoder` acts only while training; it is written as false, since
    SAELens takes true for an input that is not centred.
    """
    if file.activation != "topk":
        raise ValueError(
            f"sparsify: found an SAE with {file.activation}; this format has only "
            "topk, so choose saelens"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    d_in, d_sae = file.tensors["W_enc"].shape
    config = {
        "activation": "topk",
        "d_in": d_in,
        "expansion_factor": max(1, d_sae // d_in),
        "k": file.k,
        "multi_topk": False,
        "normalize_decoder": False,
        "num_latents": d_sae,
        "skip_connection": False,
        "transcode": False,
    }
    files.write_json(folder / CONFIG_FILE, config)
    tensors = {
        "W_dec": file.tensors["W_dec"],
        "b_dec": file.tensors["b_dec"],
        "encoder.bias": file.tensors["b_enc"],
        "encoder.weight": file.tensors["W_enc"].T,
    }
    # Copies: safetensors refuses an encoder that is the decoder's own memory.
    save_file(
        {
            name: t.detach().float().cpu().clone(memory_format=torch.contiguous_format)
            for name, t in tensors.items()
        },
        folder / WEIGHTS_FILE,
    )
