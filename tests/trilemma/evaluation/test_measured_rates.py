"""Rates of an SAE as evaluation tells them, and the controls that must meet them."""

import numpy as np
import pytest
from torch import Tensor, nn

from tests.trilemma.evaluation.samples import measure, tied, value
from trilemma.config.stages import Evaluation
from trilemma.sequences import Sequences


def test_codes_of_the_same_activations_stand_in_order(
    config: Evaluation, rows: Sequences, features: Tensor
) -> None:
    found = measure(tied(features), config, rows)
    bits = value(found, "rate_bits")
    assert value(found, "rate_bits_per_latent") <= bits
    assert bits < value(found, "rate_bits_miller_madow") < 1.05 * bits
    decoder = 16 * 16 * config.rate_weight_bits / config.rate_decoder_tokens
    assert value(found, "rate_two_part") == pytest.approx(bits + decoder)
    assert value(found, "rate_support") < 1.2 * value(found, "rate_l0_bits")
    assert found.latents["rate_bits"].sum() == pytest.approx(bits)
    assert "rate_bits_tree" not in found.metrics
    assert "rate_bits_ce" not in found.metrics


def test_the_rate_curve_holds_the_reported_rate(
    config: Evaluation, rows: Sequences, features: Tensor
) -> None:
    found = measure(tied(features), config, rows)
    at = np.argmin(abs(found.rate_curve.bin_width - found.details["rate_bin_width"]))
    assert found.rate_curve.rate_bits[at] == pytest.approx(value(found, "rate_bits"))
    assert found.rate_curve.fvu[at] == pytest.approx(
        1.01 * value(found, "fvu"), rel=0.01
    )


def test_quantising_at_the_reported_width_costs_the_tolerance(
    config: Evaluation, rows: Sequences, features: Tensor
) -> None:
    found = measure(tied(features), config, rows)
    assert found.details["rate_bin_width"] > 0
    interval = found.metrics["rate_bits"]
    assert interval.n == 3000
    assert interval.ci_low is not None and interval.ci_high is not None
    assert interval.ci_low < value(found, "rate_bits") < interval.ci_high


def test_the_pca_control_meets_the_rate(
    config: Evaluation, rows: Sequences, features: Tensor
) -> None:
    found = measure(tied(features), config, rows)
    bits = found.controls["pca"]["rate_bits"].value
    assert bits == pytest.approx(value(found, "rate_bits"), rel=0.02)
    assert list(found.controls["pca"]) == ["rate_bits", "fvu", "l0", "polysemanticity"]


def test_the_frozen_random_control_fires_as_often_as_the_sae(
    config: Evaluation, rows: Sequences, features: Tensor
) -> None:
    found = measure(tied(features), config, rows)
    l0 = found.controls["frozen_random"]["l0"].value
    assert found.details["frozen_random_k"] == np.ceil(value(found, "l0")) == 1
    assert l0 is not None and l0 <= 1


def test_the_frozen_random_control_says_how_far_it_mixes_features(
    config: Evaluation, rows: Sequences, features: Tensor
) -> None:
    merged = tied(nn.functional.normalize(features[0::2] + features[1::2], dim=1))
    found = measure(merged, config, rows, features=features)
    mixed = found.controls["frozen_random"]["polysemanticity"].value
    assert mixed == pytest.approx(2, abs=1e-3)
