"""Sparsity of codes: the sixteen measures of Hurley and Rickard, and their means.

Hurley and Rickard 2009 (Comparing measures of sparsity, arXiv 0811.4706). Each measure
takes absolute activations `c >= 0` over the last axis and is larger where they are
sparser; it is NaN where it is undefined, as most are where every activation is zero.
Only `gini` and `pq_mean` meet all six of the paper's axioms.
"""

import functools
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trilemma.config.stages import Evaluation
from trilemma.metrics import intervals
from trilemma.metrics.intervals import Bounds, Interval
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.streaming import Batch

METRIC_VERSION = 1

_Codes = Float[Tensor, "*code d_sae"]
_Values = Float[Tensor, "*code"]


def num_zero(c: _Codes) -> _Values:
    """Return how many activations are zero (the paper's l0)."""
    return (c == 0).sum(-1).to(c)


def num_small(c: _Codes, *, epsilon: float) -> _Values:
    """Return how many activations are at most epsilon (l0 with a threshold)."""
    return (c <= epsilon).sum(-1).to(c)


def minus_l1(c: _Codes) -> _Values:
    """Return `-sum c`."""
    return -c.sum(-1)


def minus_lp(c: _Codes, *, p: float) -> _Values:
    """Return `-(sum c^p)^(1/p)` for p between 0 and 1."""
    return -((c**p).sum(-1) ** (1 / p))


def l2_over_l1(c: _Codes) -> _Values:
    """Return `sqrt(sum c^2) / sum c`."""
    return c.square().sum(-1).sqrt() / c.sum(-1)


def minus_tanh(c: _Codes, *, a: float, b: float) -> _Values:
    """Return `-sum tanh((a c)^b)`."""
    return -((a * c) ** b).tanh().sum(-1)


def minus_log(c: _Codes) -> _Values:
    """Return `-sum log(1 + c^2)`."""
    return -c.square().log1p().sum(-1)


def kurtosis(c: _Codes) -> _Values:
    """Return `sum c^4 / (sum c^2)^2` (the paper's kappa_4)."""
    return (c**4).sum(-1) / c.square().sum(-1).square()


def u_theta(c: _Codes, *, theta: float) -> _Values:
    """Return 1 less the narrowest window of `ceil(N theta)` activations.

    The window is measured as a share of the range of all N; no window, and so no
    value, where all are equal.
    """
    ordered = c.sort(-1).values
    width = math.ceil(c.shape[-1] * theta)
    windows = ordered[..., width - 1 :] - ordered[..., : c.shape[-1] - width + 1]
    return 1 - windows.min(-1).values / (ordered[..., -1] - ordered[..., 0])


def minus_negative_lp(c: _Codes, *, p: float) -> _Values:
    """Return `-sum c^p` over what is not zero, for p below 0."""
    return -torch.where(c > 0, c**p, 0.0).sum(-1)


def gaussian_entropy(c: _Codes) -> _Values:
    """Return `-sum ln c^2` (the paper's H_G), which is infinite at any zero."""
    return -c.square().log().sum(-1)


def shannon_entropy(c: _Codes) -> _Values:
    """Return `-sum e ln e^2` with e the shares of the squares (the paper's H_S)."""
    energy = c.square() / c.square().sum(-1, keepdim=True)
    return -2 * _x_log_x(energy).sum(-1)


def unscaled_shannon_entropy(c: _Codes) -> _Values:
    """Return `-sum c ln c^2` (the paper's H_S')."""
    return -2 * _x_log_x(c).sum(-1)


def hoyer(c: _Codes, *, length: int | None = None) -> _Values:
    """Return `(sqrt N - sum c / sqrt(sum c^2)) / (sqrt N - 1)`: 0 dense, 1 one-hot.

    `length` is N where zeros are left out of c; absent, c is the whole code.
    """
    root = math.sqrt(c.shape[-1] if length is None else length)
    return (root - c.sum(-1) / c.square().sum(-1).sqrt()) / (root - 1)


def pq_mean(c: _Codes, *, p: float, q: float, length: int | None = None) -> _Values:
    """Return `-(mean c^p)^(1/p) / (mean c^q)^(1/q)` for `p <= 1 < q`: -1 is dense.

    `length` as in `hoyer`.
    """
    num = c.shape[-1] if length is None else length
    low = ((c**p).sum(-1) / num) ** (1 / p)
    high = ((c**q).sum(-1) / num) ** (1 / q)
    return -low / high


def gini(c: _Codes, *, length: int | None = None) -> _Values:
    """Return the Gini index: 0 where all activations are equal, `1 - 1/N` one-hot.

    `1 - 2 sum_k (c_(k) / sum c) (N - k + 1/2) / N` over increasing `c_(k)`; counted
    from the largest, the weight is the rank less a half, and zeros add nothing.
    `length` as in `hoyer`.
    """
    num = c.shape[-1] if length is None else length
    ordered = c.sort(-1, descending=True).values
    rank = torch.arange(c.shape[-1], device=c.device, dtype=c.dtype) + 1 / 2
    return 1 - 2 / num * (ordered * rank).sum(-1) / c.sum(-1)


_pq_mean = functools.partial(pq_mean, p=1 / 2, q=2.0)
"""At p = 1 and q = 2 it would be Hoyer's measure on another scale."""

MEASURES: Mapping[str, Callable[[_Codes], _Values]] = {
    "l0": num_zero,
    "l0_epsilon": functools.partial(num_small, epsilon=0.5),
    "minus_l1": minus_l1,
    "minus_lp": functools.partial(minus_lp, p=1 / 2),
    "l2_over_l1": l2_over_l1,
    "minus_tanh": functools.partial(minus_tanh, a=0.1, b=1 / 2),
    "minus_log": minus_log,
    "kappa4": kurtosis,
    "u_theta": functools.partial(u_theta, theta=1 / 2),
    "minus_negative_lp": functools.partial(minus_negative_lp, p=-1 / 2),
    "gaussian_entropy": gaussian_entropy,
    "shannon_entropy": shannon_entropy,
    "unscaled_shannon_entropy": unscaled_shannon_entropy,
    "hoyer": hoyer,
    "pq_mean": _pq_mean,
    "gini": gini,
}
"""All sixteen, in the paper's order, where need be at settings of our own."""

_REPORTED: Mapping[str, Callable[..., _Values]] = {
    "gini": gini,
    "hoyer": hoyer,
    "pq_mean": _pq_mean,
}
_BOUNDS = {
    "gini": intervals.SHARE,
    "hoyer": intervals.SHARE,
    "pq_mean": Bounds(-1.0, 0.0),
}
_METHODS = {
    "gini": "mean Gini index of a token's code",
    "hoyer": "mean Hoyer sparsity of a token's code",
    "pq_mean": "mean pq-mean of a token's code at p = 1/2, q = 2",
}


class Sparsity:
    """Adds up how sparse each token's code is, over the tokens that have one.

    A token on which nothing fires has no scale-free sparsity and is left out, so
    numerator and denominator count the others alone.
    """

    def __init__(self, *, num_documents: int, d_sae: int) -> None:
        self._d_sae = d_sae
        self._num_coded = np.zeros(num_documents)
        self._sums = np.zeros((num_documents, len(_REPORTED)))

    def add(self, batch: Batch) -> None:
        """Take the codes of a batch into the sums."""
        num = torch.bincount(batch.row, minlength=len(batch.x))
        first = num.cumsum(0) - num
        slot = torch.arange(len(batch.row), device=num.device) - first[batch.row]
        # Only the nonzero activations, side by side: the measures know of the others.
        # One slot at least, for a batch in which nothing fires.
        width = max(1, int(num.max()) if len(num) else 0)
        c = torch.zeros(len(num), width, dtype=torch.float64, device=num.device)
        c[batch.row, slot] = batch.value.double().abs()
        values = [f(c, length=self._d_sae) for f in _REPORTED.values()]
        coded = (num > 0).cpu().numpy()
        document = batch.rows.document[coded]
        np.add.at(self._num_coded, document, 1.0)
        np.add.at(self._sums, document, torch.stack(values, 1).cpu().numpy()[coded])

    def scalars(self, config: Evaluation) -> dict[str, Scalar]:
        """Return `gini`, `hoyer` and `pq_mean`, means over the tokens with a code."""
        kept = self._num_coded > 0
        num_coded = self._num_coded[kept]
        found = intervals.bootstrap_ratios(
            self._sums[kept],
            np.repeat(num_coded[:, None], len(_REPORTED), axis=1),
            num_resamples=config.num_resamples,
            seed=config.seed,
            bounds=[_BOUNDS[name] for name in _REPORTED],
        )
        return {
            name: _scalar(
                name, interval, num_tokens=int(num_coded.sum()), config=config
            )
            for name, interval in zip(_REPORTED, found, strict=True)
        }


def _scalar(
    name: str, interval: Interval, *, num_tokens: int, config: Evaluation
) -> Scalar:
    reason = None
    if interval.value is None:
        reason = "no latent fired"
    elif math.isnan(interval.value):
        interval = intervals.UNDEFINED
        reason = "a single latent is neither dense nor sparse"
    return Scalar(
        *interval,
        n=num_tokens,
        unit="1",
        method=f"{_METHODS[name]}, over tokens on which a latent fires; "
        "studentised document bootstrap",
        metric_version=METRIC_VERSION,
        seed=config.seed,
        reason=reason,
    )


def _x_log_x(x: _Codes) -> _Codes:
    terms: Tensor = torch.special.xlogy(x, x)
    return terms
