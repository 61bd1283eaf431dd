"""Tests of evaluation as a whole: toys whose right answers are known, and an LM."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.trilemma.lookup_lm import LookupLM
from trilemma import evaluation, toys
from trilemma.config.stages import Evaluation
from trilemma.config.toys import Toy
from trilemma.metrics import parts, sparsity
from trilemma.metrics.coders import Autoencoder, Coder
from trilemma.metrics.quantised import Quantised
from trilemma.sequences import Sequences

CTX = 32
TOKEN_TEXT = [" the", "ing", "(", ")", " 42", " Paris", *"abcdefghijk"]
Batches = Callable[[], Iterator[Sequences]]


@dataclass
class Linear:
    """An SAE with ReLU latents above a threshold."""

    W_dec: Tensor
    W_enc: Tensor
    b_enc: Tensor
    b_dec: Tensor
    threshold: float = 0.0

    def encode(self, x: Tensor) -> Tensor:
        pre_acts = (x - self.b_dec) @ self.W_enc + self.b_enc
        return torch.where(pre_acts > self.threshold, pre_acts, 0.0)

    def decode(self, acts: Tensor) -> Tensor:
        return acts @ self.W_dec + self.b_dec


def tied(directions: Tensor, threshold: float = 0.25) -> Linear:
    """Return the SAE whose encoder is the transpose of its decoder."""
    d_sae, d_in = directions.shape
    return Linear(
        directions, directions.T, torch.zeros(d_sae), torch.zeros(d_in), threshold
    )


def cut(whole: Sequences, sizes: list[int]) -> Batches:
    """Return batches of the given numbers of sequences."""

    def batches() -> Iterator[Sequences]:
        start = 0
        for size in sizes:
            yield Sequences(*(part[start : start + size] for part in whole))
            start += size
        assert start == len(whole.tokens)

    return batches


@pytest.fixture
def config() -> Evaluation:
    return Evaluation(
        num_resamples=200,
        rate_tokens=3000,
        num_clusters=8,
        ce_seqs=40,
        batch_seqs=16,
        dead_density=1e-2,
        probe_rows=None,
    )


@pytest.fixture
def source() -> Toy:
    return Toy(num_features=16, d_in=16, num_eval_tokens=128 * CTX, ctx=CTX, noise=0.02)


@pytest.fixture
def rows(source: Toy) -> Sequences:
    """Return held-out rows of a toy; a token is the strongest feature."""
    found = toys.sample(source, split="eval", start=0, num=128 * CTX)
    return Sequences(
        tokens=found.strongest.reshape(128, CTX),
        document=torch.arange(128)[:, None].expand(128, CTX).contiguous(),
        mask=torch.zeros(128, CTX, dtype=torch.uint8),
        x=found.x.reshape(128, CTX, -1),
    )


@pytest.fixture
def features(source: Toy) -> Tensor:
    return toys.features(source)


def prepare(
    config: Evaluation, rows: Sequences, lm: "LookupLM | None" = None
) -> evaluation.Baseline:
    flat = rows.x.reshape(-1, rows.x.shape[-1])
    return evaluation.baseline(
        config,
        eval_batches=cut(rows, [128]),
        train_rows=flat,
        mean=flat.mean(0),
        lm=lm,
        hook="toy",
        token_text=None if lm is None else TOKEN_TEXT,
    )


def measure(
    sae: Coder,
    config: Evaluation,
    rows: Sequences,
    *,
    features: Tensor | None = None,
    sizes: tuple[int, ...] = (128,),
    lm: "LookupLM | None" = None,
) -> evaluation.EvaluationResult:
    return evaluation.evaluate(
        sae,
        config,
        baseline=prepare(config, rows, lm),
        eval_batches=cut(rows, list(sizes)),
        lm=lm,
        hook="toy",
        control=sae if isinstance(sae, Autoencoder) else None,
        features=features,
        token_text=None if lm is None else TOKEN_TEXT,
    )


def value(result: evaluation.EvaluationResult, name: str) -> float:
    found = result.metrics[name].value
    assert found is not None
    return found


def test_the_true_dictionary_scores_perfectly(
    config: Evaluation, rows: Sequences, features: Tensor
) -> None:
    found = measure(tied(features), config, rows, features=features)
    assert value(found, "fvu") < 0.02
    assert value(found, "polysemanticity") == pytest.approx(1, abs=1e-4)
    assert value(found, "mmcs") == pytest.approx(1, abs=1e-4)
    assert value(found, "alive_fraction") == 1
    assert found.latents["best_feature"].tolist() == list(range(16))


def test_merged_features_score_a_participation_of_two(
    config: Evaluation, rows: Sequences, features: Tensor
) -> None:
    merged = (features[0::2] + features[1::2]) / 2**0.5
    found = measure(tied(merged), config, rows, features=features)
    assert value(found, "polysemanticity") == pytest.approx(2, abs=1e-4)
    assert value(found, "mmcs") == pytest.approx(2**-0.5, abs=1e-4)


def test_merging_raises_n_eff_beside_chance(
    config: Evaluation, rows: Sequences, features: Tensor
) -> None:
    merged = (features[0::2] + features[1::2]) / 2**0.5
    before = measure(tied(features), config, rows)
    after = measure(tied(merged), config, rows)
    high = before.metrics["polysemanticity"].ci_high
    low = after.metrics["polysemanticity"].ci_low
    assert high is not None and low is not None
    assert high < low


def test_firing_at_random_is_as_mixed_as_chance(
    config: Evaluation, rows: Sequences
) -> None:
    noise = torch.randn(rows.x.shape, generator=torch.Generator().manual_seed(3))
    found = measure(tied(torch.eye(16), 1.0), config, rows._replace(x=noise))
    assert value(found, "polysemanticity") == pytest.approx(1, abs=0.02)


def test_batches_leave_no_trace(
    config: Evaluation, rows: Sequences, features: Tensor
) -> None:
    whole = measure(tied(features), config, rows)
    parts = measure(tied(features), config, rows, sizes=(1, 7, 64, 56))
    for name, scalar in whole.metrics.items():
        for part, expected in zip(parts.metrics[name][:3], scalar[:3], strict=True):
            assert part == (expected and pytest.approx(expected, rel=1e-6)), name
    for name, scalar in whole.controls["pca"].items():
        assert parts.controls["pca"][name].value == pytest.approx(scalar.value), name


def test_the_same_call_gives_the_same_bits(
    config: Evaluation, rows: Sequences, features: Tensor
) -> None:
    first = measure(tied(features), config, rows)
    again = measure(tied(features), config, rows)
    assert first[:2] == again[:2]
    for key, column in first.latents.items():
        np.testing.assert_array_equal(again.latents[key], column)


def test_the_order_of_latents_changes_no_metric(
    config: Evaluation, rows: Sequences, features: Tensor
) -> None:
    found = measure(tied(features), config, rows).metrics
    flipped = measure(tied(features.flip(0)), config, rows).metrics
    for name in found:
        assert flipped[name].value == pytest.approx(found[name].value, rel=1e-5), name


def test_masked_rows_do_not_count(
    config: Evaluation, rows: Sequences, features: Tensor
) -> None:
    rows.mask[:, 0] = 2
    wild = rows.x.clone()
    wild[:, 0] = 1e6
    quiet = measure(tied(features), config, rows)
    found = evaluation.evaluate(
        tied(features),
        config,
        baseline=prepare(config, rows),
        lm=None,
        hook="toy",
        eval_batches=cut(rows._replace(x=wild), [128]),
        control=None,
        features=None,
    )
    assert "frozen_random" not in found.controls
    assert found.metrics["fvu"].n == 128 * (CTX - 1)
    for name in ("fvu", "l0", "rate_bits", "polysemanticity"):
        assert found.metrics[name] == quiet.metrics[name]


def test_density_agrees_with_the_generator(
    config: Evaluation, rows: Sequences, features: Tensor, source: Toy
) -> None:
    found = measure(tied(features), config, rows).metrics["density"]
    assert found.ci_low is not None and found.ci_high is not None
    assert found.ci_low < source.density < found.ci_high


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


def assert_sound(result: evaluation.EvaluationResult) -> None:
    """Assert that what is undefined says why, and that JSON can hold the rest."""
    for scalars in (result.metrics, *result.controls.values()):
        for name, scalar in scalars.items():
            assert (scalar.value is None) == bool(scalar.reason), name
            if scalar.value is None:
                assert scalar.ci_low is None and scalar.ci_high is None, name
        plain = {name: scalar._asdict() for name, scalar in scalars.items()}
        json.dumps(plain, allow_nan=False)
    json.dumps(result.details, allow_nan=False)


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


def test_a_baseline_survives_its_file(
    config: Evaluation, rows: Sequences, tmp_path: Path
) -> None:
    probed = config.model_copy(update={"probe_rows": 200})
    kept = prepare(probed, rows, tiny_lm())
    labels = torch.arange(len(kept.documents), dtype=torch.int32)
    kept = replace(kept, document_labels=labels)
    save_file(kept.to_tensors(), tmp_path / "baseline.safetensors")
    back = evaluation.Baseline.from_tensors(
        load_file(tmp_path / "baseline.safetensors")
    )
    assert kept.to_tensors().keys() == back.to_tensors().keys()
    for key, tensor in kept.to_tensors().items():
        assert back.to_tensors()[key].numpy().tobytes() == tensor.numpy().tobytes()


def test_held_out_rows_that_are_all_masked_are_an_error(
    config: Evaluation, rows: Sequences
) -> None:
    rows.mask[:] = 1
    message = "evaluation: every held-out row is masked; hold out more text by corpus"
    with pytest.raises(ValueError, match=message):
        prepare(config, rows)


def tiny_lm() -> LookupLM:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(17, 16, generator=generator)
    # A token is most likely followed by itself.
    return LookupLM(table, table.T.contiguous() / 4, hooks=("toy", "written"))


@pytest.fixture
def text(rows: Sequences) -> Sequences:
    """Return rows of text in which most tokens repeat the one before."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 17, (128, CTX), generator=generator)
    for pos in range(1, CTX):
        again = torch.rand(128, generator=generator) < 0.8
        tokens[:, pos] = torch.where(again, tokens[:, pos - 1], tokens[:, pos])
    return rows._replace(tokens=tokens, x=tiny_lm().table[tokens])


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


def test_features_that_occur_together_are_found_to_be_worth_merging(
    config: Evaluation,
) -> None:
    together = Toy(
        num_features=16, d_in=16, num_eval_tokens=128 * CTX, ctx=CTX, co_occurrence=0.6
    )
    found = toys.sample(together, split="eval", start=0, num=128 * CTX)
    rows = Sequences(
        tokens=found.strongest.reshape(128, CTX),
        document=torch.arange(128)[:, None].expand(128, CTX).contiguous(),
        mask=torch.zeros(128, CTX, dtype=torch.uint8),
        x=found.x.reshape(128, CTX, -1),
    )
    result = measure(tied(toys.features(together)), config, rows)
    paired = (np.arange(16) ^ 1).tolist()
    assert result.latents["partner"].tolist() == paired
    assert value(result, "mergeable_fraction") == 1
    assert value(result, "merging_saved_bits") > 0.1


def test_sparsity_is_that_of_the_codes(
    config: Evaluation, rows: Sequences, features: Tensor
) -> None:
    sae = tied(features)
    acts = sae.encode(rows.x.reshape(-1, 16)).double()
    fires = acts.sum(1) > 0
    found = measure(sae, config, rows)
    for name in ("gini", "hoyer", "pq_mean"):
        expected = sparsity.MEASURES[name](acts[fires]).mean()
        assert value(found, name) == pytest.approx(float(expected), rel=1e-6)
    assert found.metrics["gini"].n == int(fires.sum())


def known(sae: Linear, config: Evaluation, toy: Toy) -> evaluation.EvaluationResult:
    """Return what is measured of an SAE whose toy is known."""
    found = toys.sample(toy, split="eval", start=0, num=128 * CTX)
    rows = Sequences(
        tokens=found.strongest.reshape(128, CTX),
        document=torch.arange(128)[:, None].expand(128, CTX).contiguous(),
        mask=torch.zeros(128, CTX, dtype=torch.uint8),
        x=found.x.reshape(128, CTX, -1),
    )
    result = evaluation.evaluate(
        sae,
        config,
        baseline=prepare(config, rows),
        eval_batches=cut(rows, [128]),
        lm=None,
        hook="toy",
        control=None,
        features=toys.features(toy),
        toy=toy,
    )
    return result


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
    assert list(control) == ["rate_bits", "fvu", "mse", "l0", "polysemanticity"]
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
    theory = found.details["monosemantic_mse_theory"]
    assert control["mse"].value == pytest.approx(theory, rel=1e-4)
    assert control["mse"].value > 2 * value(found, "mse")


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


def test_few_latents_tell_facts_about_the_text(
    config: Evaluation, text: Sequences
) -> None:
    probed = config.model_copy(update={"probe_rows": 300})
    found = measure(tied(torch.eye(16), threshold=0.5), probed, text, lm=tiny_lm())
    assert value(found, "probe_next_new_word") > 0.6
    assert found.metrics["probe_late"].n == 300
    assert "probe_dense_late" in found.details


@pytest.mark.parametrize("is_text", [True, False])
def test_what_is_kept_of_documents_gives_the_metrics_back(
    config: Evaluation,
    rows: Sequences,
    text: Sequences,
    features: Tensor,
    tmp_path: Path,
    is_text: bool,
) -> None:
    lm = tiny_lm() if is_text else None
    found = (
        measure(tied(torch.eye(16), threshold=0.5), config, text, lm=lm)
        if is_text
        else measure(tied(features), config, rows, features=features)
    )
    save_arrays(found.parts, tmp_path / "documents.safetensors")
    back = load_arrays(tmp_path / "documents.safetensors")
    names = {key.rpartition(".")[0] for key in back}
    axes = {"rate_bits", "fvu", "l0", "polysemanticity"}
    assert names == axes | ({"delta_ce"} if is_text else set())
    for name in names:
        if f"{name}.num" in back:
            whole = back[f"{name}.num"].sum() / back[f"{name}.den"].sum()
            assert whole == pytest.approx(value(found, name)), name
        else:
            mean = back[f"{name}.left_out"].mean()
            assert mean == pytest.approx(value(found, name), rel=0.01), name
        estimate = parts.estimate(back, name, value=value(found, name))
        assert estimate is not None
        assert estimate.influence.sum() == pytest.approx(0, abs=1e-9)


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
