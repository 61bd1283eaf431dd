"""The rows of a hook, which may be a joint one: then those of its hooks, together."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from storage import provenance
from storage.store import Store, StoreBatch
from tasks.harvest import open_store
from tasks.plan import Plan
from trilemma import joint_hook
from trilemma.config import joint as names
from trilemma.joint_hook import JointHook
from trilemma.start import Start


@dataclass(frozen=True)
class HookRows:
    """The rows of a hook in one store, as SAEs read them."""

    store: Store
    hook: str
    joint: JointHook | None
    """What scales and joins the hooks of a joint one; None for one hook."""

    @property
    def mean(self) -> Tensor:
        """Return the mean of the rows that count, float64."""
        return self._joined(self.store.mean)

    def first(self, num: int) -> Tensor:
        """Return the first rows that count, at most so many, float32: a sample."""
        return self._joined(lambda hook: self.store.first_rows(hook, num))

    @property
    def num(self) -> int:
        """Return how many rows count."""
        return int(self.store.unmasked_rows().sum())

    def at(self, places: Int64[Tensor, "num"]) -> Tensor:
        """Return rows by their ascending places among those that count, float32."""
        return self._joined(lambda hook: self.store.rows_at(hook, places.numpy()))

    def sequences(self, batch_seqs: int, *, limit: int | None) -> Iterator[StoreBatch]:
        """Yield whole sequences, as `Store.sequences` does."""
        hooks = names.parts(self.hook)
        readers = [
            self.store.sequences(hook, batch_seqs, limit=limit) for hook in hooks
        ]
        for batches in zip(*readers, strict=True):
            x = {hook: batch.x for hook, batch in zip(hooks, batches, strict=True)}
            yield batches[0]._replace(x=self._joined(x.__getitem__))

    @property
    def origin(self) -> dict[str, Any]:
        """Return what makes the activations the kind they are, as JSON values."""
        # A store has one dtype for all its hooks.
        dtype = self.store.dtypes[names.parts(self.hook)[0]]
        return provenance.origin(
            self.store.provenance, self.hook, ctx=self.store.ctx, dtype=dtype
        )

    def _joined(self, read: Callable[[str], Tensor]) -> Tensor:
        if self.joint is None:
            return read(self.hook)
        return self.joint.joined({hook: read(hook) for hook in self.joint.hooks})


def of(plan: Plan, split: str, hook: str) -> HookRows:
    """Return the rows of a hook in a split."""
    return HookRows(open_store(plan, split), hook, joint(plan, hook))


def joint(plan: Plan, hook: str) -> JointHook | None:
    """Return what a joint hook is, as the training split scales it.

    Raises:
        ValueError: the activations of one of its hooks do not vary.
    """
    hooks = names.parts(hook)
    if len(hooks) == 1:
        return None
    store = open_store(plan, "train")
    return joint_hook.of_starts({each: _start(store, each) for each in hooks})


def start(plan: Plan, hook: str) -> Start:
    """Return what is known of a hook's rows before training, their mean as centre."""
    store, found = open_store(plan, "train"), joint(plan, hook)
    if found is None:
        return _start(store, hook)
    return joint_hook.start(found, {each: _start(store, each) for each in found.hooks})


def width(store: Store, hook: str) -> int:
    """Return the width of a hook's rows."""
    return sum(store.d_in(each) for each in names.parts(hook))


def _start(store: Store, hook: str) -> Start:
    return Start(
        d_in=store.d_in(hook),
        mean=store.mean(hook),
        mean_squared_norm=float(store.statistics(hook)["mean_squared_norm"]),
    )
