"""Average activated features: how many known features a latent answers to.

The measure of the WSAE paper (arXiv 2506.15963, figure 2); that it is computed from
features shown one at a time, with a threshold relative to the latent, is our reading.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn import functional

from trilemma.metrics import scalar
from trilemma.metrics.coders import Coder
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.streaming import Batch

METRIC_VERSION = 1
RESPONSE_SHARE = 0.1
"""A latent answers to a feature at this share of its strongest answer, or more."""
FIRING_SHARE = 0.5
"""A latent goes with a feature if it fires on more than this share of its rows."""


@torch.inference_mode()
def one_hot(
    coder: Coder, features: Float[Tensor, "num_features d_in"]
) -> Float64[np.ndarray, " d_sae"]:
    """Return how many features, each shown alone, every latent answers to.

    NaN for a latent that answers to none: one that fires only where two features occur
    together is not seen by features shown alone.
    """
    answer = coder.encode(features.to(coder.W_dec)).abs().double()
    strongest = answer.amax(0)
    count = (answer >= RESPONSE_SHARE * strongest).sum(0).double()
    return count.where(strongest > 0, torch.nan).cpu().numpy()


class Cofirings:
    """The measure that counts how often a latent fires on the rows of each feature."""

    def __init__(
        self,
        d_sae: int,
        num_features: int,
        *,
        active: Callable[[Batch], Bool[Tensor, "row num_features"]],
        device: torch.device,
    ) -> None:
        self._active = active
        self._together = torch.zeros(
            d_sae, num_features, dtype=torch.float64, device=device
        )
        self._num_active = self._together.new_zeros(num_features)
        self._num_fired = self._together.new_zeros(d_sae)

    def add(self, batch: Batch) -> None:
        """Count the features and firings of a batch."""
        active = self._active(batch).float()
        self._num_active += active.sum(0, dtype=torch.float64)
        order, latent, num = batch.by_latent
        self._num_fired[latent] += num
        # Counts of a batch are exact in float32.
        self._together[latent] += functional.embedding_bag(
            batch.row[order], active, num.cumsum(0) - num, mode="sum"
        )

    def activated(self) -> Float64[np.ndarray, " d_sae"]:
        """Return how many features each latent goes with; NaN where it is silent."""
        share = self._together / self._num_active.clamp_min(1)
        count = (share > FIRING_SHARE).sum(1).double()
        return count.where(self._num_fired > 0, torch.nan).cpu().numpy()


def scalars(
    one_hot: Float64[np.ndarray, " d_sae"],
    cofiring: Float64[np.ndarray, " d_sae"] | None,
) -> dict[str, Scalar]:
    """Return the mean numbers of features; `cofiring` is None where it is not known."""
    metrics = {
        "activated_features": scalar.mean_of(
            one_hot,
            method=f"features that, alone, bring {RESPONSE_SHARE:.0%} or more of a "
            "latent's strongest answer",
            version=METRIC_VERSION,
            reason="no latent answers to a feature alone",
        )
    }
    if cofiring is not None:
        metrics["cofiring_features"] = scalar.mean_of(
            cofiring,
            method=f"features on more than {FIRING_SHARE:.0%} of whose rows a latent "
            "fires",
            version=METRIC_VERSION,
            reason="no latent fired",
        )
    return metrics
