"""Evaluation of an SAE whose activations an LM reads on."""

import torch

from tests.trilemma.evaluation.samples import CTX, measure, tied, tiny_lm, value
from trilemma.config.stages import Evaluation
from trilemma.metrics.quantised import Quantised
from trilemma.sequences import Sequences


def test_the_identity_recovers_all_of_the_lm(
    config: Evaluation, text: Sequences
) -> None:
    both = torch.cat([torch.eye(16), -torch.eye(16)])
    found = measure(tied(both, threshold=0.0), config, text, lm=tiny_lm())
    assert value(found, "fvu") == 0
    assert value(found, "delta_ce") == 0
    assert value(found, "kl") == 0
    assert value(found, "top1_agree") == 1
    assert value(found, "ce_recovered_zero") == 1
    assert value(found, "ce_recovered_mean") == 1
    assert value(found, "ce_recovered_resample") == 1
    ratio = found.metrics["kl_noise_ratio"]
    assert ratio.value is None
    assert ratio.reason == "the random error costs less than 1e-05 nats"


def test_a_silent_sae_recovers_nothing_of_the_zero_ablation(
    config: Evaluation, text: Sequences
) -> None:
    found = measure(tied(torch.eye(16), threshold=1e3), config, text, lm=tiny_lm())
    assert value(found, "ce_recovered_zero") == 0
    assert value(found, "ce_sae") == value(found, "ce_zero")
    assert found.metrics["kl"].n == 40 * (CTX - 1)


def test_with_an_lm_the_method_names_the_clusters(
    config: Evaluation, text: Sequences
) -> None:
    found = measure(tied(torch.eye(16), threshold=0.5), config, text, lm=tiny_lm())
    method = found.metrics["polysemanticity"].method
    assert method.startswith("n_eff/null, kmeans8, sif16;")
    assert value(found, "polysemanticity") < 1


def test_an_ablation_that_costs_nothing_leaves_the_share_undefined(
    config: Evaluation, text: Sequences
) -> None:
    lm = tiny_lm()
    lm.unembedding[:] = 0
    found = measure(tied(torch.eye(16)), config, text, lm=lm)
    for name in ("zero", "mean", "resample"):
        scalar = found.metrics[f"ce_recovered_{name}"]
        assert scalar[:3] == (None, None, None)
        assert scalar.reason == "the ablation costs less than 0.001 nats"


def test_an_encoder_has_clusters_but_no_cross_entropy(
    config: Evaluation, text: Sequences
) -> None:
    lm = tiny_lm()
    lm.predicts_next = False
    found = measure(tied(torch.eye(16), threshold=0.5), config, text, lm=lm)
    assert not {"ce_clean", "delta_ce", "kl"} & set(found.metrics)
    assert "kmeans8" in found.metrics["polysemanticity"].method


def test_few_latents_tell_facts_about_the_text(
    config: Evaluation, text: Sequences
) -> None:
    probed = config.model_copy(update={"probe_rows": 300})
    found = measure(tied(torch.eye(16), threshold=0.5), probed, text, lm=tiny_lm())
    assert value(found, "probe_next_new_word") > 0.6
    assert found.metrics["probe_late"].n == 300
    assert "probe_dense_late" in found.details


def test_the_width_for_cross_entropy_costs_its_tolerance(
    config: Evaluation, text: Sequences
) -> None:
    both = tied(torch.cat([torch.eye(16), -torch.eye(16)]), threshold=0.0)
    loose = config.model_copy(update={"rate_ce_tolerance": 0.2})
    tight = measure(both, config, text, lm=tiny_lm())
    found = measure(both, loose, text, lm=tiny_lm())
    width = found.details["rate_ce_bin_width"]
    assert tight.details["rate_ce_bin_width"] < width
    assert value(found, "rate_bits_ce") < value(tight, "rate_bits_ce")
    whole = config.model_copy(update={"ce_seqs": config.rate_ce_seqs})

    def rise(width: float) -> float:
        sae = Quantised(both, width)
        return value(measure(sae, whole, text, lm=tiny_lm()), "delta_ce")

    assert rise(width) <= 0.2 < rise(1.1 * width)
