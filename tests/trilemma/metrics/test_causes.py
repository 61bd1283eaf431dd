"""Causes of a real LM, small as it is: what is steered, what it costs, dead SAEs."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from trilemma.config.stages import Evaluation
from trilemma.lm import LM
from trilemma.metrics import causes
from trilemma.metrics.causes import Causes
from trilemma.sequences import Sequences

HOOK, D_IN, CTX, NUM_SEQS = "blocks.1.hook_resid_post", 32, 32, 3
CONFIG = Evaluation(cause_seqs=NUM_SEQS, cause_latents=5, num_resamples=50)


@dataclass
class Halves:
    """A latent for either sign of each dimension, if `is_live`."""

    is_live: bool = True
    W_dec = torch.cat([torch.eye(D_IN), -torch.eye(D_IN)])

    def encode(self, x: Tensor) -> Tensor:
        return torch.cat([x, -x], dim=-1).clamp_min(0) * self.is_live

    def decode(self, acts: Tensor) -> Tensor:
        return acts @ self.W_dec


@pytest.fixture(scope="module")
def batch(tiny_lm: LM) -> Sequences:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 400, (NUM_SEQS, CTX), generator=generator)
    activations = tiny_lm.activations(tokens, [HOOK])[HOOK]
    document = torch.arange(NUM_SEQS)[:, None].expand(NUM_SEQS, CTX)
    mask = torch.zeros(NUM_SEQS, CTX, dtype=torch.uint8)
    return Sequences(tokens, document, mask, activations.float())


def measure(coder: Halves, lm: LM, batch: Sequences) -> Causes:
    acts = coder.encode(batch.x.reshape(-1, D_IN))

    def batches() -> Iterator[Sequences]:
        yield batch

    return causes.causes(
        coder,
        lm,
        CONFIG,
        batches,
        hook=HOOK,
        documents=np.arange(NUM_SEQS),
        num_fired=(acts != 0).sum(0).numpy(),
        sum_acts=acts.double().sum(0).numpy(),
    )


def test_an_lm_is_moved_by_latents_and_not_linear_in_them(
    tiny_lm: LM, batch: Sequences
) -> None:
    found = measure(Halves(), tiny_lm, batch)
    for name in ("additivity_gap", "steer_kl", "steer_kl_random"):
        value = found.metrics[name].value
        assert value is not None
        assert value > 0, name
    steered = ~np.isnan(found.columns["steer_kl"])
    assert steered.sum() == CONFIG.cause_latents
    assert found.num_runs == NUM_SEQS * (4 * (5 + 2) + 1 + 2 * 5)


def test_a_dead_sae_has_reasons_in_place_of_numbers(
    tiny_lm: LM, batch: Sequences
) -> None:
    found = measure(Halves(is_live=False), tiny_lm, batch)
    assert {scalar.value for scalar in found.metrics.values()} == {None}
    assert all(scalar.reason for scalar in found.metrics.values())
    assert np.isnan(found.columns["steer_kl"]).all()
