"""What is said of a crosscoder hook by hook: its error, and where its latents write."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from trilemma import joint_hook
from trilemma.config.stages import Evaluation
from trilemma.metrics import reconstruction
from trilemma.metrics.baseline import Baseline
from trilemma.metrics.reconstruction import Reconstruction
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.streaming import Batch

FVU_PREFIX = "fvu_at_"
"""Before the name of a hook: the fvu of its part of the rows."""
SHARE_PREFIX = "decoder_share_"
"""Before the name of a hook: the share of a latent's decoder norms that it has."""


class Crosscoding:
    """The measure that sums errors up for each hook of a joint one."""

    def __init__(
        self,
        W_dec: Float[Tensor, "d_sae width"],
        baseline: Baseline,
        widths: Mapping[str, int],
    ) -> None:
        self._W_dec = W_dec.detach()
        self._hooks = tuple(widths)
        self._widths = list(widths.values())
        self._errors = [
            Reconstruction(
                dataclasses.replace(baseline, mean=mean), device=W_dec.device
            )
            for mean in torch.split(baseline.mean, self._widths)
        ]

    def add(self, batch: Batch) -> None:
        """Take a batch into the sums."""
        parts = (torch.split(rows, self._widths, 1) for rows in (batch.x, batch.x_hat))
        for errors, x, x_hat in zip(self._errors, *parts, strict=True):
            errors.add(dataclasses.replace(batch, x=x, x_hat=x_hat))

    def scalars(self, config: Evaluation) -> dict[str, Scalar]:
        """Return the fvu of each hook."""
        return {
            FVU_PREFIX + hook: reconstruction.scalars(*errors.sums(), config)["fvu"]
            for hook, errors in zip(self._hooks, self._errors, strict=True)
        }

    def decoder_shares(self) -> dict[str, Float64[np.ndarray, " d_sae"]]:
        """Return, for each hook, its share of the sum of each latent's decoder norms.

        Of two hooks it is the relative decoder norm of Lindsey et al. (2024): near 0 or
        1 for latents of one hook, in between for those that both have. NaN for a latent
        that writes nothing.
        """
        norms = joint_hook.decoder_norms(self._W_dec.double(), self._widths)
        shares = (norms / norms.sum(dim=1, keepdim=True)).cpu().numpy()
        return {SHARE_PREFIX + hook: shares[:, i] for i, hook in enumerate(self._hooks)}
