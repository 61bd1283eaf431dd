"""Every kind finds the features of a toy that there is room for."""

import functools
from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.trilemma.kinds.samples import CONFIGS, start_of
from tests.trilemma.kinds.transcoders import HOOKS
from trilemma import objective, toys
from trilemma.config.toys import Toy
from trilemma.config.training import Training
from trilemma.training import Member

LEAST_COSINE = 0.95
# An encoder may lean away from what the latents beside it read.
LEAST_READ = 0.8
STEPS, BATCH = 300, 256
MLP_OUT = 12
# Two features are active on average: what k and target_l0 below ask for. Where more
# latents are kept than there are features, the others fire for conjunctions.
TOY = Toy(num_features=16, d_in=16, density=0.125, num_tokens=STEPS * BATCH)
# A smaller coefficient leaves latents that stand for two features.
CHANGES: dict[str, dict[str, Any]] = {
    "relu-lp": {"l1_coefficient": 1.0},
    "gated": {"l1_coefficient": 4.0},
    # Features that do not depend on each other are for roots to find.
    "tree": {"num_roots": 24},
    "jumprelu": {"l0_coefficient": 1.0},
    "jumprelu-target": {"l0_coefficient": 1.0, "target_l0": 2.0},
    "matryoshka": {"widths": (16, 32)},
}


@functools.lru_cache(maxsize=3)
def rows(seed: int) -> torch.Tensor:
    config = TOY.model_copy(update={"seed": seed})
    return toys.sample(config, split="train", start=0, num=STEPS * BATCH).x


def mean_max_cosine(name: str, seed: int) -> float:
    """Return how near the nearest decoder row is to a feature, over all features."""
    changes = {"d_sae": 32, "lr": 5e-3, "seed": seed} | CHANGES.get(name, {})
    x = rows(seed)
    config = CONFIGS[name].model_copy(update=changes)
    member = Member(
        config,
        Training(dead_after_tokens=20_000),
        start=start_of(x),
        rows=x[objective.rows_to_begin_as(config, len(x))],
        num_steps=STEPS,
        key="toy",
        device="cpu",
    )
    for batch in x.split(BATCH):
        member.step(batch)
    features = toys.features(TOY.model_copy(update={"seed": seed}))
    decoder = functional.normalize(member.export().W_dec.detach(), dim=1)
    return float((features @ decoder.t()).amax(dim=1).mean())


def mlp_cosines(name: str) -> tuple[float, float]:
    """Return how near a transcoder's latents are to what an MLP reads and writes.

    A neuron reads a feature of the toy, with a bias, and writes along a direction of
    its own: y = relu(x W_in - 0.1) W_out + 0.3.
    """
    x, reads = rows(0), toys.features(TOY)
    generator = torch.Generator().manual_seed(7)
    writes = functional.normalize(torch.randn(16, MLP_OUT, generator=generator), dim=1)
    y = torch.relu(x @ reads.t() - 0.1) @ writes + 0.3
    changes = {"d_sae": 32, "lr": 5e-3} | CHANGES.get(name, {}) | HOOKS
    member = Member(
        CONFIGS[name].model_copy(update=changes),
        Training(dead_after_tokens=20_000),
        start=start_of(x),
        target_start=start_of(y),
        num_steps=STEPS,
        key="mlp",
        device="cpu",
    )
    for first in range(0, STEPS * BATCH, BATCH):
        batch = slice(first, first + BATCH)
        member.step(x[batch], y=y[batch])
    found = member.export()
    decoder = functional.normalize(found.W_dec.detach(), dim=1)
    nearest = (writes @ decoder.t()).max(dim=1)
    encoder = functional.normalize(found.W_enc.detach(), dim=0)[:, nearest.indices]
    read = (reads * encoder.t()).sum(1)
    return float(nearest.values.mean()), float(read.mean())


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))]
)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_features_of_a_toy_are_found(name: str, seed: int) -> None:
    assert mean_max_cosine(name, seed) >= LEAST_COSINE


@pytest.mark.parametrize("name", CONFIGS)
def test_the_neurons_of_a_sparse_mlp_are_found(name: str) -> None:
    written, read = mlp_cosines(name)
    assert written >= LEAST_COSINE
    assert read >= LEAST_READ
