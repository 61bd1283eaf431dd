"""Density: how many latents a token fires, and how many tokens fire a latent."""

import numpy as np
from jaxtyping import Int64

from trilemma.config.stages import Evaluation
from trilemma.metrics import ratios
from trilemma.metrics.intervals import SHARE, Bounds
from trilemma.metrics.ratios import Ratio
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.tally import Tally

METRIC_VERSION = 1
_PERCENTS = (5, 50, 95)
_DENSE_PERCENTS = (1, 10)
_SILENT = "no latent fired"


def scalars(tally: Tally, config: Evaluation) -> dict[str, Scalar]:
    """Return `l0` and `density` with their quantiles, and the shares of the dense."""
    sums, tokens = tally.documents, tally.documents.num_tokens
    num_fired = tally.latents.num_fired.sum(0)
    num_tokens, d_sae = int(tokens.sum()), len(num_fired)
    firings, none = sums.num_firings, "no token was counted"
    found = ratios.bootstrapped(
        {
            "l0": Ratio(
                firings,
                tokens,
                "latents/token",
                "mean of nonzero latents",
                none,
                Bounds(0.0, d_sae),
            ),
            "density": Ratio(
                firings, tokens * d_sae, "1", "mean over all latents", none, SHARE
            ),
        },
        tokens,
        config,
        version=METRIC_VERSION,
    )
    density = num_fired / num_tokens
    live = np.sort(density[num_fired > 0])
    for percent in _PERCENTS:
        found[f"l0_p{percent}"] = _exact(
            float(quantile(tally.num_with_l0, percent)),
            n=num_tokens,
            unit="latents/token",
            method=f"exact; {percent} % of the tokens fire no more latents",
        )
    for percent in _PERCENTS:
        found[f"density_p{percent}"] = _exact(
            float(np.quantile(live, percent / 100, method="inverted_cdf"))
            if len(live)
            else None,
            n=len(live),
            method=f"exact; {percent} % of the live latents fire on no more tokens",
        )
    for percent in _DENSE_PERCENTS:
        is_dense = density > percent / 100
        found[f"dense_{percent}pct_fraction"] = _exact(
            float(is_dense.mean()),
            n=d_sae,
            method=f"exact; share of latents with a density above {percent} %",
        )
        found[f"dense_{percent}pct_firing_fraction"] = _exact(
            float(num_fired[is_dense].sum() / num_fired.sum()) if len(live) else None,
            n=int(num_fired.sum()),
            method=f"exact; share of firings of latents with a density above "
            f"{percent} %",
        )
    return found


def quantile(count: Int64[np.ndarray, " number"], percent: int) -> int:
    """Return the least number that at least so many percent do not exceed.

    `count[i]` says how often the number i was seen.
    """
    return int(np.argmax(100 * count.cumsum() >= percent * count.sum()))


def _exact(value: float | None, *, n: int, method: str, unit: str = "1") -> Scalar:
    return Scalar(
        value,
        None,
        None,
        n=n,
        unit=unit,
        method=method,
        metric_version=METRIC_VERSION,
        seed=None,
        reason=_SILENT if value is None else None,
    )
