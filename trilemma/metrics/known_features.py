"""The measure of known features: what fires beside what is present, counted."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int32, Int64
from torch import Tensor

from trilemma import toys
from trilemma.config.toys import Toy
from trilemma.metrics import recovery
from trilemma.metrics.coders import Coder
from trilemma.metrics.disentanglement import Counts
from trilemma.metrics.intervals import NUM_BLOCKS
from trilemma.metrics.streaming import Batch
from trilemma.toys import concepts


class PairCounts(NamedTuple):
    """Rows on which both features of a pair were present, in each block of documents.

    In the control a child of another tree stands in the second one's place, and no
    child of the first one is present.
    """

    both: Float64[np.ndarray, "*block"]
    together: Float64[np.ndarray, "*block"]
    """Rows on which the latents of both fired."""
    absorbed: Float64[np.ndarray, "*block"]
    """Rows on which the first one's latent was silent and the second one's fired."""
    control: Float64[np.ndarray, "*block"]
    control_absorbed: Float64[np.ndarray, "*block"]


class Budgeted(NamedTuple):
    """What a monosemantic code of a toy comes to at a budget of k, by theory."""

    l0: float
    """E min(|S|, k), over the rows."""
    mse: float
    """E (|S| - k)_+."""


class KnownFeatures:
    """The measure: counts over the held-out rows of a toy.

    A feature's latent is that of the best matching of decoder rows with features. Of
    pairs those count whose latents both fired somewhere; a silent latent is no one's.
    Memory is 80 bytes for each latent and feature.
    """

    def __init__(self, coder: Coder, toy: Toy) -> None:
        d_sae, num_features = len(coder.W_dec), toy.num_features
        device = coder.W_dec.device
        self.toy = toy
        self.W_dec = coder.W_dec
        latent = recovery.matched(recovery.cosines(coder.W_dec, toys.features(toy)))
        self.tied = concepts.related(toy)
        """The toy's tied pairs."""
        self._pairs = self.tied[(latent[self.tied] >= 0).all(1)].to(device)
        self._other = _elsewhere(toy, self._pairs[:, 1])
        self._latent_of = latent.to(device)
        feature = (latent >= 0).nonzero()[:, 0]
        self._feature_of = torch.full((d_sae,), -1)
        self._feature_of[latent[feature]] = feature
        self._feature_of = self._feature_of.to(device)

        def zeros(*shape: int) -> Int32[Tensor, "*shape"]:
            return torch.zeros(NUM_BLOCKS, *shape, dtype=torch.int32, device=device)

        self._rows, self._fired = zeros(), zeros(d_sae)
        self._present, self._both = zeros(num_features), zeros(d_sae, num_features)
        self._sizes = torch.zeros(num_features + 1, dtype=torch.int32, device=device)
        self._pair_sums = [zeros(len(self._pairs)) for _ in PairCounts._fields]

    def add(self, batch: Batch) -> None:
        """Count what the rows of a batch have."""
        position, device = batch.rows.position, self._rows.device
        if len(position) == 0:
            return
        start = int(position[0])
        num = int(position[-1]) + 1 - start
        active = toys.active(self.toy, split="eval", start=start, num=num)
        active = active[torch.from_numpy(position - start)].to(device)
        block = torch.from_numpy(batch.rows.document % NUM_BLOCKS).to(device)
        _count(self._rows, block)
        self._present.index_add_(0, block, active.int())
        _count(self._sizes, active.sum(1))
        place = block[batch.row] * self._fired.shape[1] + batch.latent
        _count(self._fired, place)
        entry, feature = _present_beside(batch.row, active)
        _count(self._both, place[entry] * active.shape[1] + feature)
        if len(self._pairs) > 0:
            events = self._pair_events(batch, active)
            for sums, event in zip(self._pair_sums, events, strict=True):
                row, pair = event.nonzero().t()
                _count(sums, block[row] * len(self._pairs) + pair)

    def total(self) -> Counts:
        """Return the counts over all rows."""
        rows, fired, present, both = (
            each.sum(0).double().cpu().numpy() for each in self._counted()
        )
        return Counts(float(rows), fired, present, both)

    def without_blocks(self) -> Iterator[Counts]:
        """Yield the counts without each block of documents that has rows, in turn."""
        total = self.total()
        for block in self._rows.nonzero()[:, 0].tolist():
            rows, fired, present, both = (
                each[block].double().cpu().numpy() for each in self._counted()
            )
            yield Counts(
                total.rows - float(rows),
                total.fired - fired,
                total.present - present,
                total.both - both,
            )

    def pair_counts(self) -> PairCounts:
        """Return the counts of tied pairs, summed over the pairs, for each block."""
        fired = self._fired.sum(0) > 0
        is_live = (self._latent_of >= 0) & fired[self._latent_of.clamp(min=0)]
        kept = is_live[self._pairs].all(1)
        controlled = kept & is_live[self._other]
        masks = (kept, kept, kept, controlled, controlled)
        return PairCounts(
            *(
                sums[:, mask].sum(1).double().cpu().numpy()
                for sums, mask in zip(self._pair_sums, masks, strict=True)
            )
        )

    def _counted(self) -> tuple[Int32[Tensor, "block *shape"], ...]:
        return self._rows, self._fired, self._present, self._both

    def budgeted(self, k: int) -> Budgeted | None:
        """Return what the best monosemantic code of at most k latents comes to.

        None where theory does not say: where features overlap or are more than there
        are dimensions, or have magnitudes of their own or noise.
        """
        toy = self.toy
        is_orthonormal = toy.num_features <= toy.d_in
        if not is_orthonormal or toy.magnitude != "constant" or toy.noise > 0:
            return None
        num_rows = self._sizes.double().cpu().numpy()
        sizes, share = np.arange(len(num_rows)), num_rows / num_rows.sum()
        kept = np.minimum(sizes, k)
        return Budgeted(l0=float(share @ kept), mse=float(share @ (sizes - kept)))

    def _pair_events(
        self, batch: Batch, active: Bool[Tensor, "row num_features"]
    ) -> tuple[Bool[Tensor, "row pair"], ...]:
        of_entry = self._feature_of[batch.latent]
        fires = torch.zeros_like(active)
        fires[batch.row[of_entry >= 0], of_entry[of_entry >= 0]] = True
        first, second = self._pairs[:, 0], self._pairs[:, 1]
        both = active[:, first] & active[:, second]
        control, other = torch.zeros_like(both), self._other
        if has_two_trees(self.toy):
            parent, child = self.tied.to(active.device).t()
            children = torch.zeros_like(active, dtype=torch.int64)
            children.index_add_(1, parent, active[:, child].long())
            control = active[:, first] & active[:, other] & (children[:, first] == 0)
        return (
            both,
            both & fires[:, first] & fires[:, second],
            both & ~fires[:, first] & fires[:, second],
            control,
            control & ~fires[:, first] & fires[:, other],
        )


def has_two_trees(toy: Toy) -> bool:
    """Return whether a child has another tree's to be compared with."""
    return toy.tree is not None and toy.num_features > toy.tree.size


def _elsewhere(toy: Toy, child: Int64[Tensor, " pair"]) -> Int64[Tensor, " pair"]:
    """Return what has a child's place in the next tree, the child where none is."""
    size = 0 if toy.tree is None else toy.tree.size
    return (child + size) % toy.num_features


def _count(sums: Int32[Tensor, "*shape"], place: Int64[Tensor, " event"]) -> None:
    """Add one at each place of the flattened sums; on any device exact."""
    ones = torch.ones(len(place), dtype=torch.int32, device=place.device)
    sums.view(-1).index_add_(0, place, ones)


def _present_beside(
    row: Int64[Tensor, " entry"], active: Bool[Tensor, "row num_features"]
) -> tuple[Int64[Tensor, " pair"], Int64[Tensor, " pair"]]:
    """Return each entry with each feature that is present on its row."""
    feature = active.nonzero()[:, 1]
    num = active.sum(1)
    first = num.cumsum(0) - num
    entry = torch.arange(len(row), device=row.device).repeat_interleave(num[row])
    begin = num[row].cumsum(0) - num[row]
    offset = torch.arange(len(entry), device=row.device) - begin[entry]
    return entry, feature[first[row[entry]] + offset]
