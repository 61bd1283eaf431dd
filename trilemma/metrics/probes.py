"""k-sparse probes of an SAE's code, beside those of the activations and of chance."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import sparse

from trilemma.metrics import intervals, probing, scalar
from trilemma.metrics.dense_probes import DenseProbes
from trilemma.metrics.intervals import SHARE, UNDEFINED
from trilemma.metrics.probe_tasks import TASKS, Labeller
from trilemma.metrics.probing import KS
from trilemma.metrics.reservoir import hashed
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.streaming import Batch

METRIC_VERSION = 1
_FEW = f"a class of it stands in fewer than {probing.LEAST_DOCUMENTS} documents"


class Probed(NamedTuple):
    """What the probes of an SAE reach."""

    metrics: dict[str, Scalar]
    details: dict[str, float]
    """The area under the curve of each task by number of latents, and by all of x."""


class CodeRows:
    """The measure that keeps the code of those rows whose activations were probed."""

    def __init__(
        self, d_sae: int, labeller: Labeller, dense: DenseProbes, *, seed: int
    ) -> None:
        self._d_sae, self._labeller, self._dense = d_sae, labeller, dense
        self._seed = seed
        self._num_rows = 0
        self._labels: list[Bool[np.ndarray, "row task"]] = []
        self._document: list[Int64[np.ndarray, " row"]] = []
        self._entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, batch: Batch) -> None:
        """Take in the rows of a batch that are probed."""
        rows = batch.rows
        key = hashed(batch.position, seed=self._seed)
        chosen = (key <= int(self._dense.cut)).nonzero()[:, 0].cpu().numpy()
        if len(chosen) == 0:
            return
        self._labels.append(
            self._labeller.labels(rows.sequences)[rows.kept.numpy()[chosen]]
        )
        self._document.append(rows.document[chosen])
        place = np.full(len(rows.position), -1)
        place[chosen] = self._num_rows + np.arange(len(chosen))
        row = place[batch.row.cpu().numpy()]
        kept = row >= 0
        latent, value = (part.cpu().numpy() for part in (batch.latent, batch.value))
        self._entries.append((row[kept], latent[kept], value[kept]))
        self._num_rows += len(chosen)

    def probed(self) -> Probed:
        """Return areas under the curve, and what activations and chance reach."""
        row, latent, value = (
            np.concatenate(parts) for parts in zip(*self._entries, strict=True)
        )
        shape = (self._num_rows, self._d_sae)
        acts = sparse.csr_array((value, (row, latent)), shape=shape)
        labels, document = np.concatenate(self._labels), np.concatenate(self._document)
        found = probing.probe(acts, labels, document, ks=KS, seed=self._seed)
        shuffle = np.random.default_rng(self._seed).permutation(len(labels))
        chance = probing.probe(
            acts, labels[shuffle], document, ks=KS[-1:], seed=self._seed
        )
        chosen = _Areas(found.auroc[:, -1], found.left_out[:, :, -1])
        kept = ~np.isnan(chosen.auroc)
        means = {
            "probe": (chosen, f"of {KS} latents, as many as tell best"),
            **{
                f"probe_k{k}": (
                    _Areas(found.auroc[:, index], found.left_out[:, :, index]),
                    f"latents: {k}",
                )
                for index, k in enumerate(KS)
            },
            "probe_dense": (
                _Areas(self._dense.auroc.numpy(), self._dense.left_out.numpy()),
                "all dimensions of x",
            ),
            "probe_shuffled": (
                _Areas(chance.auroc[:, -1], chance.left_out[:, :, -1]),
                f"labels shuffled, latents: {KS[-1]}",
            ),
        }
        metrics = {
            name: self._scalar(
                areas, kept, found.sizes, f"mean of {int(kept.sum())} tasks, {what}"
            )
            for name, (areas, what) in means.items()
        }
        for index, task in enumerate(TASKS):
            only = kept & (np.arange(len(TASKS)) == index)
            metrics[f"probe_{task}"] = self._scalar(
                chosen, only, found.sizes, means["probe"][1]
            )
        details = {
            f"{name}_{task}": float(areas.auroc[index])
            for name, (areas, _) in means.items()
            for index, task in enumerate(TASKS)
            if name != "probe" and not np.isnan(areas.auroc[index])
        }
        return Probed(metrics, details)

    def _scalar(
        self,
        areas: "_Areas",
        tasks: Bool[np.ndarray, " task"],
        sizes: Int64[np.ndarray, " block"],
        method: str,
    ) -> Scalar:
        """Return the mean over some tasks; undefined where there is none."""
        auroc, left_out = areas.auroc[tasks], areas.left_out[:, tasks]
        interval = UNDEFINED
        if len(auroc) > 0 and not np.isnan(auroc).any():
            # The mean of a block is NaN where one of its tasks is undefined.
            interval = intervals.jackknife(
                float(auroc.mean()), left_out.mean(1), sizes, bounds=SHARE
            )
        return scalar.pure_number(
            interval.value,
            interval[1:],
            n=self._num_rows,
            method=f"area under the ROC curve, {method}; nested cross-validation over "
            f"documents, jackknife over {probing.NUM_BLOCKS} document blocks",
            version=METRIC_VERSION,
            reason=_FEW,
            seed=self._seed,
        )


class _Areas(NamedTuple):
    auroc: Float64[np.ndarray, " task"]
    left_out: Float64[np.ndarray, "block task"]
