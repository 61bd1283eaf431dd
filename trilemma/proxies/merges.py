"""Planted merges: what an SAE becomes when pairs of its latents share one."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from trilemma.proxies.worlds import Code

Kind = Literal["conjunctive", "disjunctive"]
SHORT: dict[str, Kind] = {"and": "conjunctive", "or": "disjunctive"}
"""What names of conditions call them."""
Pairs = Sequence[tuple[int, int]]


def merge(code: Code, pairs: Pairs, kind: Kind) -> Code:
    """Return the code in which each of the disjoint pairs of latents is merged.

    A *conjunctive* merge gives rows on which both fire to a third latent along the sum
    of both directions, and leaves the two the rows on which they fire alone. A
    *disjunctive* one replaces the two by a latent along that sum, which fires where
    either does. The new latent's activation is the projection of what the two added to
    the reconstruction, so rescaling the two changes nothing.
    """
    if not pairs:
        return code
    first, second = torch.tensor(pairs).T
    merged = _between(code, first, second)
    acts, W_dec = code.acts, code.W_dec
    if kind == "conjunctive":
        both = (acts[:, first] > 0) & (acts[:, second] > 0)
        acts = acts.clone()
        acts[:, first] = acts[:, first].where(~both, 0.0)
        acts[:, second] = acts[:, second].where(~both, 0.0)
        added = merged.acts.where(both, 0.0)
        return Code(torch.cat([W_dec, merged.W_dec]), torch.cat([acts, added], dim=1))
    kept = torch.ones(len(W_dec), dtype=torch.bool)
    kept[first] = kept[second] = False
    return Code(
        torch.cat([W_dec[kept], merged.W_dec]),
        torch.cat([acts[:, kept], merged.acts], dim=1),
    )


def _between(code: Code, first: Tensor, second: Tensor) -> Code:
    """Return unit directions between pairs, and the pairs' projections on them."""
    one, other = code.W_dec[first], code.W_dec[second]
    direction = functional.normalize(
        functional.normalize(one, dim=1) + functional.normalize(other, dim=1), dim=1
    )

    def along(acts: Float[Tensor, "row pair"], rows: Tensor) -> Tensor:
        return acts * (rows * direction).sum(1)

    projected = along(code.acts[:, first], one) + along(code.acts[:, second], other)
    return Code(direction, projected.clamp_min(0))
