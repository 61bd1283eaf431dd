"""A batch of whole sequences: tokens, documents, mask and activations, side by side."""

from typing import NamedTuple

from jaxtyping import Float, Int64, UInt8
from torch import Tensor

MASK_SPECIAL = 1
MASK_FIRST = 2
MASK_PADDING = 4
MASK_HIGH_NORM = 8


class Sequences(NamedTuple):
    """Rows of the activation store in their stored order."""

    tokens: Int64[Tensor, "batch pos"]
    """Token ids."""
    document: Int64[Tensor, "batch pos"]
    """Id of the document each token belongs to."""
    mask: UInt8[Tensor, "batch pos"]
    """0 where a row counts; else a bit for each reason (`MASK_*`)."""
    x: Float[Tensor, "batch pos d_in"]
    """Activations, float32, in the LM's own units."""
