"""An SAE, rows or documents that leave numbers undefined: said so, never made up."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trilemma.evaluation.samples import (
    CTX,
    Linear,
    assert_sound,
    known,
    measure,
    prepare,
    tied,
    tiny_lm,
    value,
)
from trilemma import toys
from trilemma.config.stages import Evaluation
from trilemma.config.toys import Toy
from trilemma.sequences import Sequences


@pytest.mark.parametrize("has_features", [True, False])
def test_a_silent_sae_has_undefined_numbers_and_says_why(
    config: Evaluation, rows: Sequences, features: Tensor, has_features: bool
) -> None:
    known = features if has_features else None
    found = measure(tied(features, threshold=100.0), config, rows, features=known)
    assert_sound(found)
    assert value(found, "rate_bits") == 0
    assert value(found, "dead_fraction") == 1
    assert found.metrics["gamma"].reason == "the sum of x . x_hat is not above zero"
    for name in (
        "polysemanticity",
        "n_eff",
        "density_p50",
        "dense_1pct_firing_fraction",
    ):
        assert found.metrics[name].reason == "no latent fired"
    if has_features:
        assert found.metrics["mmcs"].reason == "no latent fired"


def test_one_live_latent_is_measured_like_any_other(
    config: Evaluation, rows: Sequences, features: Tensor
) -> None:
    one = tied(features)
    one.b_enc[1:] = -100
    found = measure(one, config, rows)
    assert_sound(found)
    assert value(found, "alive_fraction") == 1 / 16
    assert value(found, "n_eff") >= 1
    assert value(found, "gamma") > 0


@pytest.mark.parametrize("threshold", [0.0, 0.25, 100.0])
def test_equal_activations_have_no_share_of_variance(
    config: Evaluation, rows: Sequences, features: Tensor, threshold: float
) -> None:
    same = rows._replace(x=rows.x[:1, :1].expand_as(rows.x).contiguous())
    found = measure(tied(features, threshold), config, same)
    assert_sound(found)
    flat = "the held-out activations do not vary"
    for name in ("fvu", "ev", "ev_dl", "ev_ratio_mean"):
        assert found.metrics[name].reason == flat
    assert found.controls["pca"]["fvu"].reason == flat
    assert value(found, "rate_bits") == 0


@pytest.mark.parametrize("num_documents", [1, 2])
def test_few_documents_leave_wide_intervals_or_none(
    config: Evaluation, rows: Sequences, features: Tensor, num_documents: int
) -> None:
    few = rows._replace(document=rows.document % num_documents)
    found = measure(tied(features), config, few)
    assert_sound(found)
    for name in ("fvu", "ev_dl", "rate_bits", "polysemanticity", "l0"):
        assert found.metrics[name].value is not None
        low, high = found.metrics[name][1:3]
        assert (low is None and high is None) == (num_documents == 1), name


def test_a_decoder_row_of_zero_length_mixes_no_features(
    config: Evaluation, rows: Sequences, features: Tensor
) -> None:
    """It has no participation of its own, and none in the mean."""
    sae = tied(features)
    sae.W_dec = sae.W_dec.clone()
    sae.W_dec[0] = 0
    sae.W_dec[1:] += features[:1]  # all others have two features
    found = measure(sae, config, rows, features=features)
    assert_sound(found)
    assert value(found, "polysemanticity") == pytest.approx(2, abs=1e-3)
    for name in ("participation", "best_feature", "best_cosine"):
        assert np.isnan(found.latents[name]).tolist() == [True] + 15 * [False], name
    sae.W_dec[:] = 0
    nothing = measure(sae, config, rows, features=features).metrics["polysemanticity"]
    assert nothing.value is None
    assert nothing.reason == "every latent that fired has a decoder row of zero length"


def test_a_decoder_of_zeros_has_no_monosemantic_control(config: Evaluation) -> None:
    """There is no step in activation space that its bin width would stand for."""
    toy = Toy(num_features=16, d_in=16, ctx=CTX)
    sae = tied(toys.features(toy))
    sae.W_dec = torch.zeros_like(sae.W_dec)
    found = known(sae, config, toy)
    assert_sound(found)
    assert list(found.controls) == ["pca"]
    assert found.metrics["cos"].value is None


def one_live_latent() -> Linear:
    found = tied(torch.eye(16))
    found.b_enc[1:] = -100
    return found


@pytest.mark.parametrize(
    "sae", [tied(torch.eye(16), threshold=1e3), one_live_latent(), tied(torch.eye(16))]
)
@pytest.mark.parametrize("num_documents", [1, 2, 128])
@pytest.mark.parametrize("are_equal", [False, True])
def test_with_an_lm_what_is_undefined_says_why(
    sae: Linear,
    num_documents: int,
    are_equal: bool,
    config: Evaluation,
    text: Sequences,
) -> None:
    """A dead SAE, one live latent, or few documents; activations may be all equal."""
    probed = config.model_copy(update={"probe_rows": 512, "num_resamples": 20})
    rows = text._replace(document=text.document % num_documents)
    if are_equal:
        rows = rows._replace(x=rows.x[:1, :1].expand_as(rows.x).contiguous())
    found = measure(sae, probed, rows, lm=tiny_lm())
    assert_sound(found)
    assert len(found.metrics) > 90


def test_where_the_lm_predicts_from_no_token_its_numbers_say_so(
    config: Evaluation, text: Sequences
) -> None:
    """What counts are the last tokens alone, after which nothing is predicted."""
    text.mask[:, :-1] = 1
    found = measure(tied(torch.eye(16)), config, text, lm=tiny_lm())
    assert_sound(found)
    for name in ("ce_sae", "kl", "delta_ce", "steer_kl", "steer_top1_shift"):
        assert found.metrics[name].reason == "no token was counted", name
    reason = "nothing is predicted from an unmasked token of these sequences"
    assert found.metrics["rate_bits_ce"].reason == reason
    assert "rate_ce_bin_width" not in found.details
    assert np.isnan(found.latents["steer_kl"]).all()


def test_held_out_rows_that_are_all_masked_are_an_error(
    config: Evaluation, rows: Sequences
) -> None:
    rows.mask[:] = 1
    message = "evaluation: every held-out row is masked; hold out more text by corpus"
    with pytest.raises(ValueError, match=message):
        prepare(config, rows)
