"""From sums over documents and latents to the scalars that are reported."""

import math

import numpy as np
from jaxtyping import Float64, Shaped

from trilemma.config.stages import Evaluation
from trilemma.metrics import fidelity, liveness, polysemanticity, rate, ratios
from trilemma.metrics.intervals import (
    NOT_NEGATIVE,
    NUM_BLOCKS,
    SHARE,
    UNBOUNDED,
    Bounds,
)
from trilemma.metrics.ratios import Ratio
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.tally import Tally

_SILENT = "no latent fired"
_NO_TOKEN = "no token was counted"
_JACKKNIFE = f"jackknife over {NUM_BLOCKS} document blocks"
_FIXED = "held fixed"


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
    ratio = Ratio(bits, tokens, "bits/token", method, _NO_TOKEN, NOT_NEGATIVE)
    return ratios.bootstrapped(
        {"rate_bits": ratio}, tokens, config, version=rate.METRIC_VERSION
    )["rate_bits"]


def sharing(
    tally: Tally, shared: polysemanticity.Sharing, config: Evaluation, *, labels: str
) -> dict[str, Scalar]:
    """Return `n_eff`, `purity`, what chance gives, and `polysemanticity`, their ratio.

    The ratio is that of `n_eff`.
    """
    firing, mass = "firing-weighted mean", "mass-weighted mean"
    found = {
        "polysemanticity": (shared.mean_ratio, "n_eff/null", firing, _JACKKNIFE),
        "n_eff": (shared.mean_n_eff, "n_eff", firing, _JACKKNIFE),
        "n_eff_null": (shared.mean_n_eff_null, "n_eff by chance", firing, _FIXED),
        "n_eff_geometric": (
            shared.geometric_n_eff,
            "n_eff",
            "mass-weighted geometric mean",
            _JACKKNIFE,
        ),
        "purity": (shared.mean_purity, "purity", mass, _JACKKNIFE),
        "purity_null": (shared.mean_purity_null, "purity by chance", mass, _FIXED),
    }
    return {
        name: Scalar(
            *interval,
            n=_num_live(tally),
            unit="1",
            method=f"{what}, {labels}; {mean} over live latents; {how}",
            metric_version=polysemanticity.METRIC_VERSION,
            seed=config.seed,
            reason=_SILENT if interval.value is None else None,
        )
        for name, (interval, what, mean, how) in found.items()
    }


def participation(tally: Tally, config: Evaluation) -> Scalar:
    """Return `polysemanticity` by true features, the score of the tally."""
    sums = tally.documents
    method = "participation; firing-weighted mean over live latents"
    undefined = "every latent that fired has a decoder row of zero length"
    if not sums.num_firings.any():
        undefined = _SILENT
    ratio = Ratio(sums.score, sums.num_scored, "1", method, undefined, NOT_NEGATIVE)
    scalar = ratios.bootstrapped(
        {"polysemanticity": ratio},
        sums.num_tokens,
        config,
        version=polysemanticity.METRIC_VERSION,
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
        reason=_SILENT if value is None else None,
    )


def losses(
    ablated: fidelity.Ablations, spliced: fidelity.Splices, config: Evaluation
) -> dict[str, Scalar]:
    """Return the cross-entropies, what splicing costs, and the share it recovers."""
    tokens, clean, ce = spliced.num_tokens, ablated.clean, spliced.ce
    total = float(tokens.sum())

    def per_token(
        sums: Float64[np.ndarray, " document"],
        unit: str,
        method: str,
        bounds: Bounds = NOT_NEGATIVE,
    ) -> Ratio:
        return Ratio(sums, tokens, f"{unit}/token", method, _NO_TOKEN, bounds)

    def recovered(name: str, worst: Float64[np.ndarray, " document"]) -> Ratio:
        return Ratio(
            worst - ce,
            worst - clean,
            "1",
            f"(ce_{name} - ce_sae) / (ce_{name} - ce_clean), pooled",
            f"the ablation costs less than {fidelity.LEAST_CE_GAP:g} nats",
            UNBOUNDED,
            fidelity.LEAST_CE_GAP * total,
        )

    noise = "x plus a random error of equal norm"
    return ratios.bootstrapped(
        {
            "ce_clean": per_token(clean, "nats", "next token, no splice"),
            "ce_sae": per_token(ce, "nats", "next token, x_hat spliced in"),
            "ce_zero": per_token(ablated.zero, "nats", "next token, hook zeroed"),
            "ce_mean": per_token(ablated.mean, "nats", "next token, hook at its mean"),
            "ce_resample": per_token(
                ablated.resample, "nats", "next token, hook at random training rows"
            ),
            "delta_ce": per_token(ce - clean, "nats", "ce_sae - ce_clean", UNBOUNDED),
            "delta_ce_bits": per_token(
                (ce - clean) / math.log(2),
                "bits",
                "(ce_sae - ce_clean) / ln 2",
                UNBOUNDED,
            ),
            "ce_recovered_zero": recovered("zero", ablated.zero),
            "ce_recovered_mean": recovered("mean", ablated.mean),
            "ce_recovered_resample": recovered("resample", ablated.resample),
            "kl": per_token(spliced.kl, "nats", "mean KL(clean | x_hat spliced in)"),
            "kl_noise": per_token(
                spliced.kl_noise, "nats", f"mean KL(clean | {noise})"
            ),
            "kl_noise_ratio": Ratio(
                spliced.kl,
                spliced.kl_noise,
                "1",
                f"kl / KL(clean | {noise}), pooled",
                f"the random error costs less than {fidelity.LEAST_KL:g} nats",
                NOT_NEGATIVE,
                fidelity.LEAST_KL * total,
            ),
            "top1_agree": Ratio(
                spliced.top1_agree,
                tokens,
                "1",
                "share of equal most likely tokens",
                _NO_TOKEN,
                SHARE,
            ),
        },
        tokens,
        config,
        version=fidelity.METRIC_VERSION,
    )


def _num_live(tally: Tally) -> int:
    return int((tally.latents.num_fired.sum(0) > 0).sum())
