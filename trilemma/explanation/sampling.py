"""Which latents of an SAE are explained: live ones, of every density."""

import numpy as np
from jaxtyping import Float, Int64


def sample_latents(
    density: Float[np.ndarray, "d_sae"], *, num: int, seed: int
) -> Int64[np.ndarray, "latent"]:
    """Return `num` live latents, or all if there are fewer, in ascending order.

    Each decade of density gives as many as the others, save one that has too few; what
    those leave over is shared by the rest, the densest first.
    """
    live = np.flatnonzero(density > 0)
    decade = np.floor(np.log10(density[live]))
    generator = np.random.default_rng(seed)
    strata = [
        generator.permutation(live[decade == each]) for each in np.unique(decade)[::-1]
    ]
    shares = _shares([len(stratum) for stratum in strata], num=num)
    chosen = [stratum[:share] for stratum, share in zip(strata, shares, strict=True)]
    return np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *chosen]))


def _shares(sizes: list[int], *, num: int) -> list[int]:
    """Return how many to take from each stratum: one in turn until none is left."""
    shares = [0] * len(sizes)
    left = min(num, sum(sizes))
    while left > 0:
        for index, size in enumerate(sizes):
            if left > 0 and shares[index] < size:
                shares[index] += 1
                left -= 1
    return shares
