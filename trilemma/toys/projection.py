"""The best monosemantic SAE under a budget: one latent a feature, codes by pursuit.

What it loses and how many latents it needs, beside an SAE that may merge, is what
monosemanticity costs.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from trilemma.config.toys import Toy
from trilemma.toys import directions

_LEAST_MAGNITUDE = 0.01
"""Of a feature, whose mean magnitude is 1; what is smaller may be rounding."""


@dataclass(frozen=True)
class Pursuit:
    """A coder whose decoder is known features and whose code has at most k of them.

    Orthogonal matching pursuit (Pati, Rezaiifar and Krishnaprasad 1993), here of
    activations that are never negative: in each step a row takes the feature of
    largest inner product with what is left of it, and the magnitudes of all that it
    took are fitted anew by least squares, those that come out negative dropped. For
    orthonormal features this is the best such code; for others it is greedy, so that
    what it loses is an upper bound.
    """

    features: Float[Tensor, "num_features d_in"]
    """Unit vectors."""
    b_dec: Float[Tensor, " d_in"]
    """What activations have besides features: the toy's bias."""
    k: int
    """Most features that a row's code has."""
    threshold: float
    """A row takes no further feature whose inner product is not above this."""

    @property
    def W_dec(self) -> Float[Tensor, "num_features d_in"]:  # noqa: N802
        """Return the features."""
        return self.features

    def encode(
        self, x: Float[Tensor, "batch d_in"]
    ) -> Float[Tensor, "batch num_features"]:
        """Return the magnitude of each feature that a row took; others are zero."""
        products = (x - self.b_dec) @ self.features.t()
        gram = self.features @ self.features.t()
        acts = torch.zeros_like(products)
        taken = torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
        for _ in range(min(self.k, len(self.features))):
            left = (products - acts @ gram).scatter(1, taken, -torch.inf)
            value, best = left.max(1, keepdim=True)
            if not bool((value > self.threshold).any()):
                break
            # A row that takes nothing more lists a feature that it does not use.
            taken = torch.cat([taken, best], dim=1)
            used = acts.gather(1, taken) > 0
            used[:, -1] = value[:, 0] > self.threshold
            acts = _fitted(products, gram, taken, used)
        return acts

    def decode(
        self, acts: Float[Tensor, "batch num_features"]
    ) -> Float[Tensor, "batch d_in"]:
        """Return the sum of features."""
        return acts @ self.features + self.b_dec


def of_toy(toy: Toy, *, k: int, device: torch.device | str) -> Pursuit:
    """Return the pursuit of a toy's features, which stops where noise begins.

    Of `num_features` inner products with noise the largest is hardly ever above
    noise sqrt(2 ln num_features) (Donoho and Johnstone 1994, the universal threshold).
    """
    loudest = toy.noise * math.sqrt(2 * math.log(toy.num_features))
    return Pursuit(
        directions.features(toy).to(device),
        directions.bias(toy).to(device),
        k,
        threshold=max(_LEAST_MAGNITUDE, loudest),
    )


def _fitted(
    products: Float[Tensor, "batch num_features"],
    gram: Float[Tensor, "num_features num_features"],
    taken: Int64[Tensor, "batch step"],
    used: Bool[Tensor, "batch step"],
) -> Float[Tensor, "batch num_features"]:
    """Return the least squares code over the features used, without negative ones."""
    target = products.gather(1, taken)
    among = gram[taken[:, :, None], taken[:, None, :]]
    unit = torch.eye(taken.shape[1]).to(gram)
    for _ in range(taken.shape[1]):
        both = used[:, :, None] & used[:, None, :]
        # Features that are not used are tied to themselves alone, at zero.
        found = torch.linalg.solve(
            torch.where(both, among, unit), torch.where(used, target, 0.0)
        )
        if not bool((found < 0).any()):
            break
        used = used & (found > 0)
    values = torch.where(used, found.clamp(min=0), 0.0)
    return torch.zeros_like(products).scatter_add(1, taken, values)
