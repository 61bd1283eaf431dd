"""SAELens as a contestant of the training benchmark, in the environment that has it."""

import torch
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.batchtopk_sae import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
)
from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.saes.sae import TrainingSAE
from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from benchmarks.trainers.serving import Contest, serve


class SAELens:
    """Its SAETrainer, called as its own loop calls it, without W&B."""

    def __init__(self, contest: Contest, start: dict[str, Tensor]) -> None:
        self._sae = _sae(contest)
        with torch.no_grad():
            for name, tensor in start.items():
                if hasattr(self._sae, name):
                    getattr(self._sae, name).copy_(tensor)
        self._trainer = SAETrainer(
            SAETrainerConfig(
                total_training_samples=contest.steps * contest.batch,
                train_batch_size_samples=contest.batch,
                lr=contest.lr,
                lr_end=contest.lr,
                lr_warm_up_steps=contest.warmup_steps,
                lr_decay_steps=contest.steps - contest.warmup_steps,
                device=contest.device,
                logger=LoggingConfig(log_to_wandb=False),
            ),
            self._sae,
            iter(()),
        )

    def step(self, index: int, x: Tensor) -> None:
        """Take a step, as SAETrainer.fit does."""
        self._trainer.maybe_reset_sparsity()
        self._trainer.step(x)
        self._trainer.n_training_steps += 1

    def weights(self) -> dict[str, Tensor]:
        """Return the weights, with the decoder's norms folded where it does that."""
        with torch.no_grad():
            if isinstance(self._sae, TopKTrainingSAE):
                self._sae.fold_W_dec_norm()
            names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
            return {
                name: getattr(self._sae, name).detach()
                for name in names
                if hasattr(self._sae, name)
            }


def _sae(contest: Contest) -> TrainingSAE:
    shape = {
        "d_in": contest.d_in,
        "d_sae": contest.d_sae,
        "device": contest.device,
        "dtype": "float32",
    }
    warmup = contest.warmup_steps
    match contest.kind:
        case "topk":
            return TopKTrainingSAE(TopKTrainingSAEConfig(k=contest.k, **shape))
        case "batchtopk":
            config = BatchTopKTrainingSAEConfig(k=contest.k, **shape)
            return BatchTopKTrainingSAE(config)
        case "relu":
            return StandardTrainingSAE(
                StandardTrainingSAEConfig(
                    l1_coefficient=contest.coefficient, l1_warm_up_steps=warmup, **shape
                )
            )
        case "jumprelu":
            return JumpReLUTrainingSAE(
                JumpReLUTrainingSAEConfig(
                    l0_coefficient=contest.coefficient, l0_warm_up_steps=warmup, **shape
                )
            )
    raise AssertionError(contest.kind)


if __name__ == "__main__":
    serve(lambda contest, rows, start: SAELens(contest, start))
