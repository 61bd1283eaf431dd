"""From sums over documents and latents to the scalars that are reported."""

import numpy as np
from jaxtyping import Float64, Shaped

from trilemma.config.stages import Evaluation
from trilemma.metrics import (
    distortion,
    fidelity,
    intervals,
    liveness,
    polysemanticity,
    rate,
)
from trilemma.metrics.intervals import Interval
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.tally import NUM_BLOCKS, Tally

_BOOTSTRAP = "document bootstrap"
_JACKKNIFE = f"jackknife over {NUM_BLOCKS} document blocks"


def reconstruction(tally: Tally, config: Evaluation) -> dict[str, Scalar]:
    """Return `fvu`, `mse`, `cos`, `l0` and the mean `density`."""
    sums = tally.documents
    d_sae = len(tally.latents.sum_acts)
    tokens = sums.num_tokens
    columns = {
        "fvu": (
            sums.squared_error,
            sums.squared_deviation,
            "1",
            "pooled |x - x_hat|^2 / |x - mean|^2",
        ),
        "mse": (sums.squared_error, tokens, "act^2", "mean of |x - x_hat|^2"),
        "cos": (sums.cosine, tokens, "1", "mean cosine of x and x_hat"),
        "l0": (sums.num_firings, tokens, "latents/token", "mean of nonzero latents"),
        "density": (sums.num_firings, tokens * d_sae, "1", "mean over all latents"),
    }
    return _bootstrapped(columns, tokens, config, version=distortion.METRIC_VERSION)


def live_fractions(
    states: Shaped[np.ndarray, " d_sae"], *, num_tokens: int, dead_density: float
) -> dict[str, Scalar]:
    """Return the shares of latents that are alive, dead or undetermined."""
    return {
        f"{state}_fraction": Scalar(
            float((states == state).mean()),
            None,
            None,
            n=num_tokens,
            unit="1",
            method=f"exact; dead if silent and 3/n <= {dead_density:g}",
            metric_version=liveness.METRIC_VERSION,
            seed=None,
        )
        for state in liveness.STATES
    }


def code_rate(
    codes: rate.Codes, length: rate.CodeLength, config: Evaluation, *, method: str
) -> Scalar:
    """Return `rate_bits`: the mean code length, with the code held fixed."""
    num_documents = int(codes.document.max()) + 1
    tokens = np.bincount(codes.document, minlength=num_documents).astype(np.float64)
    bits = np.bincount(codes.document, length.bits, minlength=num_documents)
    columns = {"rate_bits": (bits, tokens, "bits/token", method)}
    return _bootstrapped(columns, tokens, config, version=rate.METRIC_VERSION)[
        "rate_bits"
    ]


def sharing(
    tally: Tally, shared: polysemanticity.Sharing, config: Evaluation, *, labels: str
) -> dict[str, Scalar]:
    """Return `n_eff` and, by the same labels, `polysemanticity`: n_eff over chance."""

    def scalar(interval: Interval, name: str) -> Scalar:
        return Scalar(
            *interval,
            n=_num_live(tally),
            unit="1",
            method=f"{name}, {labels}; firing-weighted mean over live latents; "
            f"{_JACKKNIFE}",
            metric_version=polysemanticity.METRIC_VERSION,
            seed=config.seed,
        )

    return {
        "polysemanticity": scalar(shared.mean_ratio, "n_eff/null"),
        "n_eff": scalar(shared.mean_n_eff, "n_eff"),
    }


def participation(tally: Tally, config: Evaluation) -> Scalar:
    """Return `polysemanticity` by true features, the score of the tally."""
    sums = tally.documents
    method = "participation; firing-weighted mean over live latents"
    columns = {"polysemanticity": (sums.score, sums.num_firings, "1", method)}
    scalar = _bootstrapped(
        columns, sums.num_tokens, config, version=polysemanticity.METRIC_VERSION
    )["polysemanticity"]
    return scalar._replace(n=_num_live(tally))


def mean_best_cosine(tally: Tally, matches: polysemanticity.Matches) -> Scalar:
    """Return `mmcs`: for each true feature, the best cosine of a live latent."""
    live = tally.latents.num_fired.sum(0) > 0
    value = float(matches.cosine[live].max(0).mean()) if live.any() else None
    return Scalar(
        value,
        None,
        None,
        n=matches.cosine.shape[1],
        unit="1",
        method="exact; mean over features of the largest |cos| with a live latent",
        metric_version=polysemanticity.METRIC_VERSION,
        seed=None,
    )


def losses(
    ablated: fidelity.DocumentLosses,
    spliced: fidelity.DocumentLosses,
    config: Evaluation,
) -> dict[str, Scalar]:
    """Return the cross-entropies, what splicing costs, and the share it recovers."""
    tokens = spliced.num_tokens
    clean, zero, mean = ablated.sums.T
    ce, kl, agree = spliced.sums.T
    nats = "nats/token"
    scalars = _bootstrapped(
        {
            "ce_clean": (clean, tokens, nats, "next token, no splice"),
            "ce_sae": (ce, tokens, nats, "next token, x_hat spliced in"),
            "ce_zero": (zero, tokens, nats, "next token, hook zeroed"),
            "ce_mean": (mean, tokens, nats, "next token, hook at its mean"),
            "delta_ce": (ce - clean, tokens, nats, "ce_sae - ce_clean"),
            "kl": (kl, tokens, nats, "mean KL(clean | spliced)"),
            "top1_agree": (agree, tokens, "1", "share of equal most likely tokens"),
        },
        tokens,
        config,
        version=fidelity.METRIC_VERSION,
    )
    least = fidelity.LEAST_CE_GAP
    return scalars | _bootstrapped(
        {
            f"ce_recovered_{name}": (
                worst - ce,
                worst - clean,
                "1",
                f"(ce_{name} - ce_sae) / (ce_{name} - ce_clean), pooled; undefined "
                f"where the ablation costs less than {least:g} nats",
            )
            for name, worst in (("zero", zero), ("mean", mean))
        },
        tokens,
        config,
        version=fidelity.METRIC_VERSION,
        min_denominator=least * float(tokens.sum()),
    )


_Column = tuple[
    Float64[np.ndarray, " document"], Float64[np.ndarray, " document"], str, str
]


def _bootstrapped(
    columns: dict[str, _Column],
    num_tokens: Float64[np.ndarray, " document"],
    config: Evaluation,
    *,
    version: int,
    min_denominator: float = 0.0,
) -> dict[str, Scalar]:
    """Return ratios of sums; each column is numerator, denominator, unit, method."""
    kept = num_tokens > 0
    found = intervals.bootstrap_ratios(
        np.stack([column[0][kept] for column in columns.values()], axis=1),
        np.stack([column[1][kept] for column in columns.values()], axis=1),
        num_resamples=config.num_resamples,
        seed=config.seed,
        min_denominator=min_denominator,
    )
    return {
        name: Scalar(
            *interval,
            n=int(num_tokens.sum()),
            unit=unit,
            method=f"{method}; {_BOOTSTRAP}",
            metric_version=version,
            seed=config.seed,
        )
        for (name, (_, _, unit, method)), interval in zip(
            columns.items(), found, strict=True
        )
    }


def _num_live(tally: Tally) -> int:
    return int((tally.latents.num_fired.sum(0) > 0).sum())
