"""Average activated features: how many known features a latent answers to.

The measure of the WSAE paper (arXiv 2506.15963, figure 2); that it is computed from
features shown one at a time, with a threshold relative to the latent, is our reading.
"""

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from trilemma.metrics import scalar
from trilemma.metrics.coders import Coder
from trilemma.metrics.disentanglement import Counts
from trilemma.metrics.scalar import Scalar

METRIC_VERSION = 1
RESPONSE_SHARE = 0.1
"""A latent answers to a feature at this share of its strongest answer, or more."""
FIRING_SHARE = 0.5
"""A latent goes with a feature if it fires on more than this share of its rows."""


@torch.inference_mode()
def one_hot(
    coder: Coder, shown: Float[Tensor, "num_features d_in"]
) -> Float64[np.ndarray, " d_sae"]:
    """Return how many features, each shown alone, every latent answers to.

    What is shown is a row that has one feature: the feature, and what all rows have.
    NaN for a latent that answers to none: one that fires only where two features occur
    together is not seen by features shown alone.
    """
    answer = coder.encode(shown.to(coder.W_dec)).abs().double()
    strongest = answer.amax(0)
    count = (answer >= RESPONSE_SHARE * strongest).sum(0).double()
    return count.where(strongest > 0, torch.nan).cpu().numpy()


def cofiring(counts: Counts) -> Float64[np.ndarray, " d_sae"]:
    """Return on how many features' rows each latent mostly fires; NaN if silent."""
    share = counts.both / np.maximum(counts.present, 1)
    count = (share > FIRING_SHARE).sum(1).astype(np.float64)
    return np.where(counts.fired > 0, count, np.nan)


def scalars(
    one_hot: Float64[np.ndarray, " d_sae"],
    cofiring: Float64[np.ndarray, " d_sae"],
) -> dict[str, Scalar]:
    """Return the mean numbers of features of both kinds."""
    return {
        "activated_features": scalar.mean_of(
            one_hot,
            method=f"features that, alone, bring {RESPONSE_SHARE:.0%} or more of a "
            "latent's strongest answer",
            version=METRIC_VERSION,
            reason="no latent answers to a feature alone",
        ),
        "cofiring_features": scalar.mean_of(
            cofiring,
            method=f"features on more than {FIRING_SHARE:.0%} of whose rows a latent "
            "fires",
            version=METRIC_VERSION,
            reason="no latent fired",
        ),
    }
