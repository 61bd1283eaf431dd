"""Which whole sequences a training step reads besides its batch: a ring of them."""

import functools
import hashlib

import torch

from storage.store import OpenSequences, Store, StoreBatch


class SequenceOrder:
    """The sequences of a hook in stored order, from a place that the seed decides.

    They were shuffled when the corpus was made. What a step reads follows from the
    seed and its number, so that nothing has to be kept to go on. The chunk in use
    stays open.
    """

    def __init__(self, store: Store, hook: str, *, seed: int, batch_seqs: int) -> None:
        self._store = store
        self._batch_seqs = batch_seqs
        digest = hashlib.sha256(f"trilemma/sequences/{seed}".encode()).digest()
        self._first = int.from_bytes(digest[:8]) % store.num_seqs
        self._opened = functools.lru_cache(1)(
            functools.partial(store.open_sequences, hook)
        )

    def batch(self, step: int) -> StoreBatch:
        """Return the sequences of a step, counted from 0."""
        first = self._first + step * self._batch_seqs
        numbers = range(first, first + self._batch_seqs)
        found = [self._sequence(number % self._store.num_seqs) for number in numbers]
        return StoreBatch(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _sequence(self, number: int) -> StoreBatch:
        chunk, place = divmod(number, self._store.chunk_seqs)
        opened: OpenSequences = self._opened(chunk)
        return opened.batch(slice(place, place + 1))
