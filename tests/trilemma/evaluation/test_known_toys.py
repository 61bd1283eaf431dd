"""Evaluation of SAEs on toys that say which features every row has."""

import numpy as np
import pytest
import torch

from tests.trilemma.evaluation.samples import CTX, known, tied, value
from trilemma import toys
from trilemma.config.stages import Evaluation
from trilemma.config.toys import Toy


def test_a_known_toy_says_which_features_latents_stand_for(config: Evaluation) -> None:
    toy = Toy(num_features=16, d_in=16, ctx=CTX, noise=0.02, co_occurrence=0.4)
    found = known(tied(toys.features(toy)), config, toy)
    assert value(found, "f1_gap") == 0
    assert value(found, "mcc") == pytest.approx(1, abs=1e-6)
    assert value(found, "co_activation") == 1
    assert found.metrics["absorb_gt"].reason is not None
    assert found.latents["f1_gap"].tolist() == [0] * 16
    assert value(found, "activated_features") == 1
    assert value(found, "cofiring_features") == 1
    control = found.controls["monosemantic"]
    names = ["rate_bits", "fvu", "mse", "l0", "polysemanticity"]
    assert list(control) == [*names, "l0_theory", "mse_theory"]
    assert control["polysemanticity"].value == pytest.approx(1, abs=1e-6)


def test_a_feature_is_shown_with_what_every_row_has(config: Evaluation) -> None:
    toy = Toy(num_features=16, d_in=24, ctx=CTX, bias=3.0)
    sae = tied(toys.features(toy))
    sae.b_dec = toys.bias(toy)
    assert value(known(sae, config, toy), "activated_features") == 1


def test_what_monosemanticity_costs_is_measured_beside_its_theory(
    config: Evaluation,
) -> None:
    toy = Toy(
        num_features=16,
        d_in=16,
        ctx=CTX,
        density=0.2,
        co_occurrence=0.9,
        magnitude="constant",
        bias=1.0,
    )
    V = toys.features(toy)
    pairs = V[0::2] + V[1::2]
    merged = tied(torch.nn.functional.normalize(pairs, dim=1))
    merged.b_dec = toys.bias(toy)
    found = known(merged, config, toy)
    control = found.controls["monosemantic"]
    assert found.details["monosemantic_k"] == np.ceil(value(found, "l0"))
    for name in ("mse", "l0"):
        theory = control[f"{name}_theory"].value
        assert control[name].value == pytest.approx(theory, rel=1e-4), name
    assert control["mse"].value > 2 * value(found, "mse")


def test_features_of_unequal_magnitude_have_no_theory_and_a_reason(
    config: Evaluation,
) -> None:
    toy = Toy(num_features=16, d_in=16, ctx=CTX)
    control = known(tied(toys.features(toy)), config, toy).controls["monosemantic"]
    for name in ("mse_theory", "l0_theory"):
        assert control[name].value is None
        assert control[name].reason == (
            "features overlap, differ in magnitude or come with noise"
        )


@pytest.mark.parametrize(
    ("densities", "expected"), [((0.2, 0.2), 2.0), ((0.3, 0.1), 1.7548)]
)
def test_a_latent_for_two_features_has_the_n_eff_of_their_masses(
    config: Evaluation, densities: tuple[float, ...], expected: float
) -> None:
    toy = Toy(
        num_features=2,
        d_in=4,
        ctx=CTX,
        densities=densities,
        co_occurrence=0.0,
        magnitude="constant",
    )
    merged = tied(toys.features(toy).sum(0, keepdim=True) / 2**0.5)
    found = known(merged, config, toy)
    assert value(found, "n_eff") == pytest.approx(expected, abs=0.02)
