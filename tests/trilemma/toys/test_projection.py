"""The monosemantic projection: what a code over known features costs at best."""

import itertools

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

from trilemma import toys
from trilemma.config.toys import Toy
from trilemma.toys.projection import Pursuit

ROOMY = Toy(num_features=12, d_in=16, density=0.25, bias=2.0)
CROWDED = Toy(num_features=24, d_in=12, density=0.1, magnitude="constant")


def pursuit(config: Toy, k: int, threshold: float = 0.01) -> Pursuit:
    return Pursuit(
        toys.features(config).double(), toys.bias(config).double(), k, threshold
    )


def draw(config: Toy, num: int = 300) -> toys.ToyRows:
    rows = toys.sample(config, split="eval", start=0, num=num)
    return rows._replace(x=rows.x.double())


def errors(coder: Pursuit, x: Tensor) -> Tensor:
    return (x - coder.decode(coder.encode(x))).square().sum(1)


def test_orthonormal_features_are_found_with_their_magnitudes() -> None:
    rows = draw(ROOMY)
    coder = pursuit(ROOMY, k=12)
    acts = coder.encode(rows.x)
    assert torch.equal(acts > 0, rows.active)
    assert float(errors(coder, rows.x).max()) < 1e-10


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_budget_drops_the_weakest_of_orthonormal_features(k: int) -> None:
    rows = draw(ROOMY)
    magnitudes = (rows.x - toys.bias(ROOMY)) @ toys.features(ROOMY).double().t()
    magnitudes = torch.where(rows.active, magnitudes, 0.0)
    dropped = magnitudes.sort(dim=1, descending=True).values[:, k:]
    torch.testing.assert_close(
        errors(pursuit(ROOMY, k), rows.x), dropped.square().sum(1), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_code_is_never_negative_and_has_at_most_k(k: int) -> None:
    x = torch.randn(200, 12, generator=torch.Generator().manual_seed(0)).double()
    acts = pursuit(CROWDED, k, threshold=0.0).encode(x)
    assert bool((acts >= 0).all())
    assert int((acts > 0).sum(1).max()) == k


def test_a_code_is_the_non_negative_least_squares_fit_of_its_features() -> None:
    x = torch.randn(60, 12, generator=torch.Generator().manual_seed(1)).double()
    coder = pursuit(CROWDED, 4)
    acts = coder.encode(x)
    basis = coder.features.numpy()
    for row, code in zip(x.numpy(), acts.numpy(), strict=True):
        used = code > 0
        fitted, _ = optimize.nnls(basis[used].T, row)
        np.testing.assert_allclose(code[used], fitted, atol=1e-8)


def test_crowded_features_are_nearly_as_well_coded_as_can_be() -> None:
    rows = draw(CROWDED, num=80)
    coder = pursuit(CROWDED, 2)
    best = []
    for row in rows.x.numpy():
        pairs = itertools.combinations(range(24), 2)
        best.append(
            min(
                optimize.nnls(coder.features[list(pair)].numpy().T, row)[1] ** 2
                for pair in pairs
            )
        )
    mine = float(errors(coder, rows.x).mean())
    assert np.mean(best) <= mine + 1e-9
    assert mine <= 1.1 * np.mean(best)


def test_more_features_never_lose_more() -> None:
    rows = draw(CROWDED)
    losses = [float(errors(pursuit(CROWDED, k), rows.x).mean()) for k in (1, 2, 4, 8)]
    assert losses == sorted(losses, reverse=True)


def test_noise_below_the_threshold_is_not_coded() -> None:
    noisy = ROOMY.model_copy(update={"noise": 0.05})
    rows = draw(noisy)
    acts = pursuit(noisy, k=12, threshold=0.25).encode(rows.x)
    assert torch.equal(acts > 0, rows.active)


def test_an_empty_batch_and_an_empty_row_have_empty_codes() -> None:
    coder = pursuit(ROOMY, 3)
    assert coder.encode(torch.zeros(0, 16).double()).shape == (0, 12)
    assert not bool(coder.encode(toys.bias(ROOMY).double()[None]).any())
