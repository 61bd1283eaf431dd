"""How the weights of an SAE in training lie in memory."""

from torch import Tensor


def laid_out(name: str, tensor: Tensor) -> Tensor:
    """Return a weight as it lies in memory best: the encoder latent by latent.

    Its gradient comes latent by latent too.
    """
    return tensor.t().contiguous().t() if name == "W_enc" else tensor


def lying(tensor: Tensor, weight: Tensor) -> Tensor:
    """Return what has a weight's shape as that weight lies in memory, and the reverse.

    Adam would copy what it changes, were it not contiguous.
    """
    return tensor if weight.is_contiguous() else tensor.t()
