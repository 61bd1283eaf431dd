"""What is said of a crosscoder hook by hook, against each hook measured alone."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trilemma.metrics import passes
from trilemma.metrics import reconstruction
from trilemma.metrics.crosscoding import Crosscoding
from trilemma.metrics.reconstruction import Reconstruction
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.streaming import Batch, Measure

WIDTHS = {"a": 3, "b": 5}
NUM_ROWS = 200


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shown(measure: Measure, x: Tensor, x_hat: Tensor) -> None:
    """Show rows and their reconstructions to a measure, in uneven batches."""
    parts = passes.batches(x, [90, 110], num_documents=5)
    baseline = passes.prepared(x, num_documents=5)
    none = torch.zeros(0, dtype=torch.int64)
    for rows in baseline.rows(parts):
        seen = x_hat[torch.from_numpy(rows.position)]
        measure.add(Batch(rows, rows.x, seen, none, none, torch.zeros(0)))


def crosscoding(x: Tensor, W_dec: Tensor) -> Crosscoding:
    return Crosscoding(W_dec, passes.prepared(x, num_documents=5), WIDTHS)


def test_the_fvu_of_a_hook_is_what_it_has_alone() -> None:
    x = normal(NUM_ROWS, 8, seed=0) + 2
    x_hat = x + 0.3 * normal(NUM_ROWS, 8, seed=1)
    measure = crosscoding(x, torch.ones(2, 8))
    shown(measure, x, x_hat)
    found = measure.scalars(passes.CONFIG)
    wanted: dict[str, Scalar] = {}
    for hook, y, y_hat in zip(
        WIDTHS, x.split([3, 5], 1), x_hat.split([3, 5], 1), strict=True
    ):
        alone = Reconstruction(
            passes.prepared(y, num_documents=5), device=torch.device("cpu")
        )
        shown(alone, y, y_hat)
        sums = reconstruction.scalars(*alone.sums(), passes.CONFIG)
        wanted[f"fvu_at_{hook}"] = sums["fvu"]
    assert found == wanted


def test_the_fvu_of_a_hook_that_does_not_vary_has_a_reason() -> None:
    x = normal(NUM_ROWS, 8, seed=0)
    x[:, :3] = 1.0
    measure = crosscoding(x, torch.ones(2, 8))
    shown(measure, x, x)
    found = measure.scalars(passes.CONFIG)
    assert found["fvu_at_a"].value is None
    assert found["fvu_at_a"].reason == "the held-out activations do not vary"
    assert found["fvu_at_b"].value == 0


def test_shares_are_those_of_the_norms_at_each_hook() -> None:
    W_dec = torch.zeros(3, 8)
    W_dec[0, :2] = torch.tensor([3.0, 4.0])
    W_dec[1, 2], W_dec[1, 7] = 1.0, -3.0
    found = crosscoding(normal(NUM_ROWS, 8, seed=0), W_dec).decoder_shares()
    assert found["decoder_share_a"][:2] == pytest.approx([1, 0.25])
    assert found["decoder_share_b"][:2] == pytest.approx([0, 0.75])
    # A latent that writes nothing has no share.
    assert np.isnan(found["decoder_share_a"][2])
