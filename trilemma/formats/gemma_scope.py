"""Gemma Scope's `params.npz`, read: JumpReLU SAEs of Google DeepMind."""

from pathlib import Path

import torch

from trilemma.formats import files, folding
from trilemma.formats.saelens import SAEFile

WEIGHTS_FILE = "params.npz"


def read(folder: str | Path) -> SAEFile:
    """Return the SAE in a folder with a `params.npz`.

    Lieberum et al. (2024), "Gemma Scope": acts = z 1[z > threshold] of
    z = x W_enc + b_enc, from whose input b_dec is not subtracted. Their SAEs of token
    embeddings read embeddings multiplied by sqrt(d_in), as Gemma does.
    """
    path = Path(folder) / WEIGHTS_FILE
    tensors = files.read_npz(path)
    tensors = {name.replace("w_", "W_", 1): value for name, value in tensors.items()}
    scaling = tensors.pop("scaling_factor", torch.ones(()))
    if not torch.equal(scaling, torch.ones_like(scaling)):
        raise ValueError(
            f"{path}: found a scaling_factor other than 1, which cannot be read; use "
            "an SAE without fine-tuning"
        )
    wanted = ("W_dec", "W_enc", "b_dec", "b_enc", "threshold")
    tensors = files.checked(path, tensors, wanted, "Gemma Scope's SAE")
    files.checked_shapes(path, tensors)
    return SAEFile("jumprelu", folding.centred(tensors), None, {})
