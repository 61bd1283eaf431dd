"""Time SAELens reading its own activation cache, in the environment that has it.

Makes the cache; then each line on standard input names a size of its mixing buffer, in
sequences, from which it serves and times some batches.
"""

import json
import sys
import time
from pathlib import Path

import torch
from datasets import Array2D, Dataset, Features, Sequence, Value
from sae_lens.cache_activations_runner import CacheActivationsRunner
from sae_lens.training.activations_store import ActivationsStore

HOOK = "blocks.3.hook_resid_post"
CTX = 128
READ_SEQS, SHARD_SEQS = 32, 256
LEAST_BATCHES = 16


def main(folder: str, d_in: int, num_seqs: int, batch: int, threads: int) -> None:
    """Answer each line with the rows served and the seconds that took."""
    torch.set_num_threads(threads)
    _make(folder, d_in, num_seqs)
    print("ready", flush=True)
    stores: dict[int, ActivationsStore] = {}
    for line in sys.stdin:
        buffer = int(line)
        if buffer not in stores:
            stores[buffer] = _opened(folder, d_in, batch, buffer)
            stores[buffer].next_batch()
        # SAELens serves half of its buffer, then fills it again: time both.
        count = max(LEAST_BATCHES, buffer * CTX // 2 // batch)
        began = time.perf_counter()
        rows = sum(len(stores[buffer].next_batch()) for _ in range(count))
        print(json.dumps([rows, time.perf_counter() - began]), flush=True)


def _opened(folder: str, d_in: int, batch: int, buffer: int) -> ActivationsStore:
    return ActivationsStore(
        model=None,
        dataset=None,
        streaming=False,
        hook_name=HOOK,
        hook_head_index=None,
        context_size=CTX,
        d_in=d_in,
        n_batches_in_buffer=buffer,
        total_training_tokens=10**9,
        store_batch_size_prompts=READ_SEQS,
        train_batch_size_tokens=batch,
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
        cached_activations_path=folder,
    )


def _make(folder: str, d_in: int, num_seqs: int) -> None:
    """Save random activations as SAELens's CacheActivationsRunner does."""
    features = Features(
        {
            HOOK: Array2D(shape=(CTX, d_in), dtype="float32"),
            "token_ids": Sequence(Value(dtype="int32"), length=CTX),
        }
    )
    generator = torch.Generator().manual_seed(0)
    source, target = Path(folder, ".tmp_shards"), Path(folder)
    for first in range(0, num_seqs, SHARD_SEQS):
        x = torch.randn(SHARD_SEQS, CTX, d_in, generator=generator)
        tokens = torch.zeros(SHARD_SEQS, CTX, dtype=torch.int32)
        shard = Dataset.from_dict({HOOK: x, "token_ids": tokens}, features=features)
        shard.save_to_disk(source / f"shard_{first // SHARD_SEQS:05d}", num_shards=1)
    CacheActivationsRunner._consolidate_shards(source, target, copy_files=False)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
