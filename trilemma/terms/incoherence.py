"""Decoder incoherence: decoder rows that point the same way cost something.

Tilde Research, "The rate distortion dance of sparse autoencoders", suggests a penalty
on the inner products of decoder rows. That they are squared, and of rows of unit norm,
is our reading of it.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from trilemma.kinds.kind import Batch, Forward, Weights


def value(weights: Weights, batch: Batch, forward: Forward) -> Float[Tensor, ""]:
    """Return d_in times the mean squared cosine between two decoder rows.

    It is 1 for random directions, whatever d_in and d_sae. All pairs are in it: the
    squares of W_dec W_dec^T sum to those of W_dec^T W_dec, a matrix of d_in x d_in.
    """
    rows = functional.normalize(weights["W_dec"], dim=1)
    d_sae, d_in = rows.shape
    # Each row with itself: 1, or 0 for a row of zeros; in either case constant.
    own = rows.detach().square().sum()
    squares = (rows.t() @ rows).square().sum() - own
    return batch.mean(squares * d_in / (d_sae * (d_sae - 1)))
