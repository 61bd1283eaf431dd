"""Reconstruction: the sums over documents behind every distortion metric."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64

from trilemma.config.stages import Evaluation
from trilemma.metrics import distortion, intervals, ratios
from trilemma.metrics.baseline import Baseline
from trilemma.metrics.intervals import NOT_NEGATIVE, NUM_BLOCKS, Bounds
from trilemma.metrics.ratios import Ratio
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.streaming import Batch
from trilemma.metrics.sums import add_at

_LEAST_SPREAD = float(torch.finfo(torch.float32).eps) ** 2
"""Squared deviation over squared norm below which float32 rows do not vary."""
_FLAT = "the held-out activations do not vary"


class DocumentSums(NamedTuple):
    """Sums over the rows of each document."""

    num_tokens: Float64[np.ndarray, " document"]
    squared_error: Float64[np.ndarray, " document"]
    squared_deviation: Float64[np.ndarray, " document"]
    squared_norm: Float64[np.ndarray, " document"]
    squared_norm_hat: Float64[np.ndarray, " document"]
    inner: Float64[np.ndarray, " document"]
    cosine: Float64[np.ndarray, " document"]
    explained_share: Float64[np.ndarray, " document"]
    """Sum of each row's own `1 - |x - x_hat|^2 / |x - mean|^2`, where it varies."""
    num_varying: Float64[np.ndarray, " document"]
    """Rows that differ from the mean."""


class BlockSums(NamedTuple):
    """Sums over the rows of each block of documents."""

    error: Float64[np.ndarray, "block d_in"]
    """Of `x - x_hat`."""
    deviation: Float64[np.ndarray, "block d_in"]
    """Of `x - mean`."""


class Reconstruction:
    """The measure that sums errors up."""

    def __init__(self, baseline: Baseline, *, device: torch.device) -> None:
        mean = baseline.mean.to(device)
        self._mean = mean
        self._documents = mean.new_zeros(
            len(baseline.documents), len(DocumentSums._fields)
        )
        self._error = mean.new_zeros(NUM_BLOCKS, len(mean))
        self._deviation = torch.zeros_like(self._error)

    def add(self, batch: Batch) -> None:
        """Take a batch into the sums."""
        errors = distortion.row_errors(batch.x, batch.x_hat, mean=self._mean)
        deviation = errors.squared_deviation
        varies = deviation > _LEAST_SPREAD * errors.squared_norm
        share = 1 - errors.squared_error / deviation.where(varies, 1.0)
        columns = (
            torch.ones_like(deviation),
            *errors,
            errors.cosine,
            share.where(varies, 0.0),
            varies.double(),
        )
        add_at(self._documents, batch.document, torch.stack(columns, dim=1))
        block = batch.document % NUM_BLOCKS
        for part in distortion.parts(batch.x):
            x = batch.x[part].double()
            add_at(self._error, block[part], x - batch.x_hat[part].double())
            add_at(self._deviation, block[part], x - self._mean)

    def sums(self) -> tuple[DocumentSums, BlockSums]:
        """Return what was added up."""
        columns = self._documents.t().cpu().numpy()
        blocks = BlockSums(self._error.cpu().numpy(), self._deviation.cpu().numpy())
        return DocumentSums(*columns), blocks


def scalars(
    sums: DocumentSums, blocks: BlockSums, config: Evaluation
) -> dict[str, Scalar]:
    """Return every distortion metric, as docs/metrics.md defines them."""
    tokens, d_in = sums.num_tokens, blocks.error.shape[1]
    error, deviation, norm = (
        sums.squared_error,
        sums.squared_deviation,
        sums.squared_norm,
    )
    varying = _LEAST_SPREAD * float(norm.sum())
    at_most_1 = Bounds(high=1.0)
    zero, none = "the held-out activations are all zero", "no token was counted"
    have_directions = norm.any() and sums.squared_norm_hat.any()
    found = {
        "fvu": Ratio(
            error,
            deviation,
            "1",
            "pooled |x - x_hat|^2 / |x - mean|^2",
            _FLAT,
            NOT_NEGATIVE,
            varying,
        ),
        "ev": Ratio(
            deviation - error, deviation, "1", "1 - fvu", _FLAT, at_most_1, varying
        ),
        "ev_uncentred": Ratio(
            norm - error, norm, "1", "1 - pooled |x - x_hat|^2 / |x|^2", zero, at_most_1
        ),
        "ev_ratio_mean": Ratio(
            sums.explained_share,
            sums.num_varying,
            "1",
            "mean over tokens of 1 - |x - x_hat|^2 / |x - mean|^2",
            _FLAT,
            at_most_1,
        ),
        "mse": Ratio(
            error, tokens, "act^2", "mean of |x - x_hat|^2", none, NOT_NEGATIVE
        ),
        "mse_per_dim": Ratio(
            error,
            tokens * d_in,
            "act^2",
            "mean of |x - x_hat|^2 / d_in",
            none,
            NOT_NEGATIVE,
        ),
        "cos": Ratio(
            sums.cosine,
            tokens * have_directions,
            "1",
            "mean cosine of x and x_hat",
            "x, or x_hat, is zero on every token",
            Bounds(-1.0, 1.0),
        ),
        "gamma": Ratio(
            sums.squared_norm_hat,
            sums.inner,
            "1",
            "pooled |x_hat|^2 / x . x_hat",
            "the sum of x . x_hat is not above zero",
            NOT_NEGATIVE,
        ),
    }
    scalar = ratios.bootstrapped(
        found, tokens, config, version=distortion.METRIC_VERSION
    )
    interval = _variance_explained(sums, blocks)
    scalar["ev_dl"] = Scalar(
        *interval,
        n=int(tokens.sum()),
        unit="1",
        method="1 - sum of variances of x - x_hat / sum of variances of x; "
        f"jackknife over {NUM_BLOCKS} document blocks",
        metric_version=distortion.METRIC_VERSION,
        seed=None,
        reason=_FLAT if interval.value is None else None,
    )
    return scalar


def _variance_explained(sums: DocumentSums, blocks: BlockSums) -> intervals.Interval:
    """Return `ev_dl`, in which a constant error costs nothing."""
    block = np.arange(len(sums.num_tokens)) % NUM_BLOCKS
    tokens, error, deviation, norm = (
        np.bincount(block, column, minlength=NUM_BLOCKS)
        for column in (
            sums.num_tokens,
            sums.squared_error,
            sums.squared_deviation,
            sums.squared_norm,
        )
    )

    def explained(kept: Bool[np.ndarray, " block"]) -> float | None:
        num = tokens[kept].sum()
        if num == 0:
            return None
        left = error[kept].sum() - (blocks.error[kept].sum(0) ** 2).sum() / num
        total = deviation[kept].sum() - (blocks.deviation[kept].sum(0) ** 2).sum() / num
        if not total > _LEAST_SPREAD * norm[kept].sum():
            return None
        return float(1 - left / total)

    value = explained(tokens >= 0)
    if value is None:
        return intervals.UNDEFINED
    each = np.arange(NUM_BLOCKS)
    without = [explained(each != left_out) for left_out in each[tokens > 0]]
    # None becomes NaN.
    return intervals.jackknife(
        value,
        np.array(without, dtype=np.float64),
        tokens[tokens > 0],
        bounds=intervals.Bounds(high=1.0),
    )
