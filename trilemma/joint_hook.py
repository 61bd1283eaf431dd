"""A joint hook: rows of several hooks side by side, scaled so that none dominates."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from trilemma.sae import SAE
from trilemma.start import Start


class JointHook(NamedTuple):
    """What turns the activations of hooks into rows of all of them, and back.

    Each hook is scaled to a mean squared norm of its width, so that an error in one
    counts as much as in another; what a crosscoder reads, and is measured on, are these
    rows. Its saved weights are for activations as they are, side by side.
    """

    hooks: tuple[str, ...]
    widths: tuple[int, ...]
    scales: tuple[float, ...]
    """What the activations of each are multiplied by."""

    @property
    def width(self) -> int:
        """Return the width of a row."""
        return sum(self.widths)

    def joined(
        self, x: Mapping[str, Float[Tensor, "*batch _"]]
    ) -> Float[Tensor, "*batch width"]:
        """Return rows of the hooks' activations, which are as they were harvested."""
        scaled = zip(self.hooks, self.scales, strict=True)
        return torch.cat([x[hook] * scale for hook, scale in scaled], dim=-1)

    def parted(self, x: Float[Tensor, "*batch width"]) -> dict[str, Tensor]:
        """Return the activations that rows are of, as they were harvested."""
        parts = torch.split(x, list(self.widths), -1)
        found = zip(self.hooks, parts, self.scales, strict=True)
        return {hook: part / scale for hook, part, scale in found}

    def of_rows(self, sae: SAE) -> SAE:
        """Return the SAE of rows, from one of activations as they are."""
        return sae.of_scaled(1 / self._factors.to(sae.W_dec.device))

    def of_activations(self, sae: SAE) -> SAE:
        """Return the SAE of activations as they are, from one of rows."""
        return sae.of_scaled(self._factors.to(sae.W_dec.device))

    @property
    def _factors(self) -> Float64[Tensor, "width"]:
        scales = torch.tensor(self.scales, dtype=torch.float64)
        return scales.repeat_interleave(torch.tensor(self.widths))


def of_starts(starts: Mapping[str, Start]) -> JointHook:
    """Return the joint hook of hooks, in their order, from what is known of each.

    Raises:
        ValueError: the activations of one do not vary.
    """
    for hook, start in starts.items():
        if not (start.mean_squared_norm > 0 and start.scaled_variance > 0):
            raise ValueError(
                f"saes.hook: found activations of {hook!r} that do not vary; leave it "
                "out of the list, or harvest more rows"
            )
    return JointHook(
        tuple(starts),
        tuple(start.d_in for start in starts.values()),
        tuple(start.scale for start in starts.values()),
    )


def start(joint: JointHook, starts: Mapping[str, Start]) -> Start:
    """Return what is known of the rows, from what is known of each hook."""
    squares = [
        scale**2 * starts[hook].mean_squared_norm
        for hook, scale in zip(joint.hooks, joint.scales, strict=True)
    ]
    return Start(
        d_in=joint.width,
        mean=joint.joined({hook: each.mean for hook, each in starts.items()}),
        mean_squared_norm=math.fsum(squares),
        widths=joint.widths,
    )


def decoder_norms(
    W_dec: Float[Tensor, "d_sae width"], widths: Sequence[int]
) -> Float[Tensor, "d_sae hook"]:
    """Return the norm of each latent's decoder at each of the hooks."""
    parts = torch.split(W_dec, list(widths), dim=1)
    return torch.stack([part.norm(dim=1) for part in parts], dim=1)
