"""dictionary_learning as a contestant of the training benchmark."""

# ruff: noqa: E402

import sys
from types import SimpleNamespace

# The package imports an old nnsight, to harvest with; its trainers do without.
sys.modules["nnsight"] = SimpleNamespace(LanguageModel=None)

import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.standard import StandardTrainer
from dictionary_learning.trainers.top_k import TopKTrainer
from dictionary_learning.trainers.trainer import SAETrainer
from torch import Tensor

from benchmarks.trainers.serving import Contest, serve


class DictionaryLearning:
    """One of its trainers, called as its own loop calls it."""

    def __init__(self, contest: Contest, start: dict[str, Tensor]) -> None:
        self._is_jumprelu = contest.kind == "jumprelu"
        self._trainer = _trainer(contest)
        with torch.no_grad():
            for name, parameter in self._parameters().items():
                parameter.copy_(start[name])
            if self._is_jumprelu:
                # It leaves b_dec in the input, so that its bias must take it out.
                ae = self._trainer.ae
                ae.b_enc.sub_(ae.b_dec @ ae.W_enc)

    def step(self, index: int, x: Tensor) -> None:
        """Take a step; at its own step 0 it would replace the b_dec it was given."""
        self._trainer.update(index + 1, x)

    def weights(self) -> dict[str, Tensor]:
        """Return the weights as they stand."""
        found = {name: p.detach() for name, p in self._parameters().items()}
        if self._is_jumprelu:
            found["b_enc"] = found["b_enc"] + found["b_dec"] @ found["W_enc"]
        return found

    def _parameters(self) -> dict[str, Tensor]:
        ae = self._trainer.ae
        if self._is_jumprelu:
            names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
            return {name: getattr(ae, name) for name in names}
        return {
            "W_enc": ae.encoder.weight.t(),
            "b_enc": ae.encoder.bias,
            "W_dec": ae.decoder.weight.t(),
            "b_dec": ae.bias if hasattr(ae, "bias") else ae.b_dec,
        }


def _trainer(contest: Contest) -> SAETrainer:
    settings = {
        "steps": contest.steps + 1,
        "activation_dim": contest.d_in,
        "dict_size": contest.d_sae,
        "layer": 0,
        "lm_name": "none",
        "lr": contest.lr,
        "warmup_steps": contest.warmup_steps,
        # It refuses a decay that begins as the warm-up ends.
        "decay_start": contest.warmup_steps + 1,
        "device": contest.device,
    }
    warmup = contest.warmup_steps
    match contest.kind:
        case "topk":
            return TopKTrainer(k=contest.k, **settings)
        case "batchtopk":
            return BatchTopKTrainer(k=contest.k, **settings)
        case "relu":
            return StandardTrainer(
                l1_penalty=contest.coefficient, sparsity_warmup_steps=warmup, **settings
            )
        case "jumprelu":
            return JumpReluTrainer(
                sparsity_penalty=contest.coefficient,
                sparsity_warmup_steps=warmup,
                target_l0=contest.l0,
                **settings,
            )
    raise AssertionError(contest.kind)


if __name__ == "__main__":
    serve(lambda contest, rows, start: DictionaryLearning(contest, start))
