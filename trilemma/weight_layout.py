"""How the weights of an SAE in training, and their moments, lie in memory."""

import torch
from torch import Tensor


def laid_out(name: str, tensor: Tensor) -> Tensor:
    """Return a weight as it lies in memory best: the encoder latent by latent.

    Its gradient comes latent by latent too, and one layout of both halves Adam's time.
    """
    return tensor.t().contiguous().t() if name == "W_enc" else tensor


def like(saved: Tensor, weight: Tensor) -> Tensor:
    """Return a saved moment on the weight's device, laid out as the weight is."""
    if saved.shape != weight.shape:
        return saved.clone().to(weight.device)
    return torch.empty_like(weight, dtype=saved.dtype).copy_(saved)
