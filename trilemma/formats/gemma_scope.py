"""Gemma Scope's `params.npz`, read: JumpReLU SAEs of Google DeepMind."""

from pathlib import Path

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
    tensors = files.without_scaling(path, tensors)
    wanted = ("W_dec", "W_enc", "b_dec", "b_enc", "threshold")
    tensors = files.checked(path, tensors, wanted, "Gemma Scope's SAE")
    files.checked_shapes(path, tensors)
    return SAEFile("jumprelu", folding.centred(tensors), None, {})
