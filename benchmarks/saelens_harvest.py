"""Time SAELens's CacheActivationsRunner, in the environment where it is installed."""

import json
import sys
import time

import numpy as np
import sae_lens.cache_activations_runner as runner
import torch
from datasets import Dataset
from transformer_lens import HookedTransformer, HookedTransformerConfig

D_IN, NUM_LAYERS, LAYER, VOCAB = 512, 6, 3, 50_304
CTX, BATCH_SEQS = 128, 32
# SAELens caches whole buffers; its own 2 GB would be a million tokens at once.
BUFFER_SEQS = 512


def main(target: str, device: str, num_seqs: int, threads: int) -> None:
    """Cache the activations of random tokens, and print how long that took."""
    torch.set_num_threads(threads)
    num_seqs = -(-num_seqs // BUFFER_SEQS) * BUFFER_SEQS
    # SAELens knows models by the hub's names; the shape is what counts here.
    shape = HookedTransformerConfig(
        n_layers=NUM_LAYERS,
        d_model=D_IN,
        n_ctx=2048,
        d_head=D_IN // 8,
        n_heads=8,
        d_mlp=4 * D_IN,
        d_vocab=VOCAB,
        act_fn="gelu",
        normalization_type="LN",
        positional_embedding_type="rotary",
        rotary_dim=D_IN // 8 // 4,
        parallel_attn_mlp=True,
        device=device,
    )
    model = HookedTransformer(shape)
    runner.load_model = lambda **_: model
    drawn = np.random.default_rng(0).integers(0, VOCAB - 1, (num_seqs, CTX))
    config = runner.CacheActivationsRunnerConfig(
        dataset_path="random",
        model_name="pythia-70m",
        model_batch_size=BATCH_SEQS,
        hook_name=f"blocks.{LAYER}.hook_resid_post",
        d_in=D_IN,
        training_tokens=num_seqs * CTX,
        buffer_size_gb=BUFFER_SEQS * CTX * D_IN * 4 / 1e9,
        context_size=CTX,
        new_cached_activations_path=target,
        device=device,
        prepend_bos=False,
        shuffle=False,
    )
    dataset = Dataset.from_dict({"input_ids": drawn.tolist()})
    began = time.perf_counter()
    made = runner.CacheActivationsRunner(config, override_dataset=dataset).run()
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "tokens": len(made) * CTX}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
