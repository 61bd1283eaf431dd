"""sparsify as a contestant of the training benchmark, in its own environment."""

import torch
from sparsify import SparseCoder, SparseCoderConfig
from torch import Tensor
from transformers import get_linear_schedule_with_warmup

from benchmarks.trainers.serving import Contest, serve


class Sparsify:
    """Its SparseCoder, stepped as its Trainer steps it with Adam and the FVU loss.

    Its Trainer cannot be used itself: it takes rows from nothing but an LM.
    """

    def __init__(self, contest: Contest, start: dict[str, Tensor]) -> None:
        torch.set_float32_matmul_precision("high")
        config = SparseCoderConfig(num_latents=contest.d_sae, k=contest.k)
        self._coder = SparseCoder(contest.d_in, config, contest.device, torch.float32)
        with torch.no_grad():
            self._coder.encoder.weight.copy_(start["W_enc"].t())
            self._coder.encoder.bias.copy_(start["b_enc"])
            self._coder.W_dec.copy_(start["W_dec"])
            self._coder.b_dec.copy_(start["b_dec"])
        self._adam = torch.optim.Adam(self._coder.parameters(), lr=contest.lr)
        self._schedule = get_linear_schedule_with_warmup(
            self._adam, contest.warmup_steps, contest.steps
        )
        self._tokens_since_fired = torch.zeros(
            contest.d_sae, dtype=torch.long, device=contest.device
        )
        self._fired = torch.zeros(
            contest.d_sae, dtype=torch.bool, device=contest.device
        )

    def step(self, index: int, x: Tensor) -> None:
        """Take a step, in the order of its Trainer.fit."""
        self._coder.set_decoder_norm_to_unit_norm()
        total_variance = (x - x.mean(0)).pow(2).sum()
        found = self._coder(x=x, y=x, dead_mask=None, total_variance=total_variance)
        self._fired[found.latent_indices.flatten()] = True
        float(found.fvu.detach())
        found.fvu.backward()
        self._coder.remove_gradient_parallel_to_decoder_directions()
        self._adam.step()
        self._adam.zero_grad()
        self._schedule.step()
        self._tokens_since_fired += len(x)
        self._tokens_since_fired[self._fired] = 0
        self._fired.zero_()

    def weights(self) -> dict[str, Tensor]:
        """Return the weights as they stand, the decoder's norms made one as it does."""
        self._coder.set_decoder_norm_to_unit_norm()
        return {
            "W_enc": self._coder.encoder.weight.detach().t(),
            "b_enc": self._coder.encoder.bias.detach(),
            "W_dec": self._coder.W_dec.detach(),
            "b_dec": self._coder.b_dec.detach(),
        }


if __name__ == "__main__":
    serve(lambda contest, rows, start: Sparsify(contest, start))
