"""The bare forward pass: a model's own blocks up to a hook's, and nothing else.

As a program, `python -m benchmarks.bare MODEL DTYPE DEVICE BATCHES THREADS` prints the
seconds that so many batches took in a process of its own, with the memory settings
that any process has.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import GPTNeoXForCausalLM

from trilemma.lm import quiet

D_IN, NUM_LAYERS, LAYER, VOCAB = 512, 6, 3, 50_304
CTX, BATCH_SEQS = 128, 32
_WARM_UP_BATCHES = 4


def main() -> None:
    """Print the seconds of so many batches."""
    model, dtype, device, batches, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    run = timed(Path(model), getattr(torch, dtype), device)
    run(_WARM_UP_BATCHES)
    print(run(int(batches)))


def timed(folder: Path, dtype: torch.dtype, device: str) -> Callable[[int], float]:
    """Return what runs so many batches and returns the seconds that they took."""
    with quiet():
        whole = GPTNeoXForCausalLM.from_pretrained(folder, dtype=dtype)
    blocks = whole.gpt_neox.eval().to(device)
    blocks.layers = blocks.layers[: LAYER + 1]
    blocks.final_layer_norm = torch.nn.Identity()

    @torch.inference_mode()
    def run(num_batches: int) -> float:
        drawn = torch.from_numpy(tokens(num_batches * BATCH_SEQS))
        began = time.perf_counter()
        for batch in torch.split(drawn.long(), BATCH_SEQS):
            blocks(batch.to(device), use_cache=False)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return run


def tokens(num_seqs: int) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    """Return tokens drawn at random, the last of the vocabulary not among them."""
    drawn = np.random.default_rng(0).integers(0, VOCAB - 1, (num_seqs, CTX))
    return drawn.astype(np.int32)


if __name__ == "__main__":
    main()
