"""Evaluation as a whole: toys whose right answers are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.trilemma.evaluation.samples import (
    CTX,
    cut,
    measure,
    prepare,
    tied,
    tiny_lm,
    value,
)
from trilemma import evaluation, toys
from trilemma.config.stages import Evaluation
from trilemma.config.toys import Toy
from trilemma.metrics import parts, sparsity
from trilemma.sequences import Sequences


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
    for control, scalars in whole.controls.items():
        for name, scalar in scalars.items():
            found = parts.controls[control][name].value
            assert found == pytest.approx(scalar.value), (control, name)


LOOSE = {
    # Widths of bins that are known to 9 % or are chosen among thirteen.
    "rate_bits_ce": 0.03,
    "rate_bits_per_latent": 4e-3,
    # Firings that are equal but for rounding may change their fifth.
    "polysemanticity_strata": 4e-3,
}


@pytest.mark.parametrize("has_lm", [False, True])
def test_bfloat16_activations_score_what_float32_ones_do(
    config: Evaluation,
    rows: Sequences,
    text: Sequences,
    features: Tensor,
    has_lm: bool,
) -> None:
    sae, given, lm = tied(features), rows, None
    if has_lm:
        sae, given, lm = tied(torch.eye(16)), text, tiny_lm()
    exact, rounded = (
        measure(sae, config, given._replace(x=x), lm=lm).metrics
        for x in (given.x, given.x.bfloat16().float())
    )
    for name, scalar in exact.items():
        found = rounded[name].value
        if scalar.value is None:
            assert found is None, name
        else:
            near = pytest.approx(scalar.value, rel=LOOSE.get(name, 1e-3), abs=1e-9)
            assert found == near, name


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
    measured = {name: value(found, name) for name in ("rate_bits", "fvu", "l0")}
    measured["polysemanticity"] = value(found, "polysemanticity")
    if is_text:
        measured["delta_ce"] = value(found, "delta_ce")
    for control in ("pca", "frozen_random"):
        for name in ("fvu", "l0", "polysemanticity"):
            own = found.controls[control][name].value
            assert own is not None
            measured[f"{control}.{name}"] = own
    assert measured.keys() == {key.rpartition(".")[0] for key in back}
    for name, expected in measured.items():
        if f"{name}.num" in back:
            whole = back[f"{name}.num"].sum() / back[f"{name}.den"].sum()
            assert whole == pytest.approx(expected), name
        else:
            mean = back[f"{name}.left_out"].mean()
            assert mean == pytest.approx(expected, rel=0.01), name
        estimate = parts.estimate(back, name, value=expected)
        assert estimate is not None
        assert estimate.influence.sum() == pytest.approx(0, abs=1e-9)
