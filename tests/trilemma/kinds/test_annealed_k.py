"""What a k that falls until late does to the threshold of inference."""

import pytest

from tests.trilemma.kinds.samples import (
    BATCH,
    CONFIGS,
    member_of,
    rows,
    trained_by,
)

STEPS, NUM_HELD_OUT = 300, 4096


def inference_l0(kind: str, fraction: float) -> float:
    """Return L0 at inference after k has fallen from 8 to 2."""
    drawn = rows(STEPS * BATCH + NUM_HELD_OUT)
    x, held_out = drawn[:-NUM_HELD_OUT], drawn[-NUM_HELD_OUT:]
    annealed = {"k": 2, "k_start": 8, "k_anneal_fraction": fraction}
    config = CONFIGS[kind].model_copy(update=annealed)
    sae = trained_by(member_of(config, x, STEPS), x, STEPS).export()
    return float((sae.encode(held_out) > 0).sum(1).double().mean())


@pytest.mark.parametrize("kind", ["batchtopk", "matryoshka"])
def test_the_threshold_follows_a_k_that_has_fallen_by_four_fifths(kind: str) -> None:
    assert inference_l0(kind, 0.8) == pytest.approx(2, rel=0.08)


@pytest.mark.parametrize("kind", ["batchtopk", "matryoshka"])
def test_the_threshold_lags_behind_a_k_that_falls_to_the_end(kind: str) -> None:
    assert inference_l0(kind, 1.0) > 2.2
