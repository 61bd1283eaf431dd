"""How many sequences fit into one forward pass, found by counting its tensors."""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trilemma.lm import LM

# More fill a GPU; on a CPU their values no longer fit its caches.
_MOST_TOKENS_GPU = 1 << 16
_MOST_TOKENS_CPU = 1 << 12
_MIB = 1 << 20


def find(lm: LM, hooks: Sequence[str], *, ctx: int, memory_bytes: int) -> int:
    """Return the largest power of two of sequences whose forward pass fits.

    At most 65,536 tokens, or 4,096 on a CPU; one sequence in any case.

    It depends on nothing but the arguments, for the batch decides the last bits of
    what is harvested; so tensors are counted, and the machine is not asked.

    Raises:
        ValueError: one sequence needs more memory than there is.

    """
    one = peak_bytes(lm, hooks, num_seqs=1, ctx=ctx)
    each = peak_bytes(lm, hooks, num_seqs=2, ctx=ctx) - one
    if one > memory_bytes:
        raise ValueError(
            f"harvest.batch_memory_mib: one sequence of {ctx:,} tokens needs "
            f"{-(-one // _MIB):,} MiB, and {memory_bytes // _MIB:,} are allowed; allow "
            "more, or set a smaller corpus.ctx"
        )
    num_seqs = 1
    most = _MOST_TOKENS_CPU if lm.device.type == "cpu" else _MOST_TOKENS_GPU
    while (
        2 * num_seqs * ctx <= most and one + (2 * num_seqs - 1) * each <= memory_bytes
    ):
        num_seqs *= 2
    return num_seqs


def peak_bytes(lm: LM, hooks: Sequence[str], *, num_seqs: int, ctx: int) -> int:
    """Return the most bytes of tensors alive at once in a forward pass, less weights.

    What an operation allocates and frees inside itself is not seen.
    """
    tokens = torch.zeros(num_seqs, ctx, dtype=torch.int64, device=lm.device)
    counter = _LiveBytes()
    with counter:
        lm.activations(tokens, hooks)
    return counter.peak


# PyTorch leaves the methods of this class untyped.
class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that operations allocate, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Any,  # an operation, as PyTorch hands it over
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # In inference mode compound operations arrive whole: look inside them.
        with self:
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        inputs = {id(storage) for storage in _storages((args, kwargs))}
        result = func(*args, **kwargs)
        for storage in _storages(result):
            if id(storage) not in inputs:
                self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self._known:
            return
        self._known.add(id(storage))
        self._live += storage.nbytes()
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._remove, id(storage), storage.nbytes())

    def _remove(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self._live -= num_bytes


def _storages(tree: object) -> list[torch.UntypedStorage]:
    return [
        leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)
    ]
