"""Weights of the input dimensions: what they are made of, and what they do."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.trilemma.kinds.samples import BATCH, CONFIGS, D_IN, rows
from tests.trilemma.terms.training import member, trained
from trilemma.config.terms import (
    ConsistencyWeights,
    GivenWeights,
    InputWeights,
    Terms,
    VarianceWeights,
)
from trilemma.terms import input_weights
from trilemma.terms.input_weights import Sample

VARIANCE = torch.tensor([1.0, 4.0, 16.0], dtype=torch.float64)
TERMS = Terms(input_weights=VarianceWeights(kind="variance"))


def gamma(config: InputWeights, sample: Sample | None = None) -> list[float]:
    def given(num: int) -> Sample:
        assert sample is not None
        return Sample(sample.x[:num], sample.tokens[:num])

    found = input_weights.gamma(config, variance=VARIANCE, scale=0.5, sample=given)
    return found.tolist()


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        # Of scaled activations: variances are a quarter.
        ({"normalisation": "none"}, [0.25, 1.0, 4.0]),
        ({"normalisation": "mean"}, [1 / 7, 4 / 7, 16 / 7]),
        ({"normalisation": "max"}, [1 / 16, 1 / 4, 1.0]),
        ({"normalisation": "max", "alpha": 0.5}, [1 / 4, 1 / 2, 1.0]),
    ],
)
def test_weights_are_powers_of_variances(
    changes: dict[str, object], wanted: list[float]
) -> None:
    config = VarianceWeights.model_validate({"kind": "variance"} | changes)
    assert gamma(config) == pytest.approx(wanted)


def test_a_dimension_that_knows_its_token_weighs_most() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 50, (1000,), generator=generator)
    tokens[::10] = 0
    x = torch.randn(1000, 3, generator=generator)
    x[tokens == 0, 1] -= 100.0
    half = (tokens == 0) & (torch.arange(1000) % 20 == 0)
    x[half | (tokens == 7), 2] += 100.0
    config = ConsistencyWeights(
        kind="consistency", num_rows=1000, active_fraction=0.05, normalisation="none"
    )
    blind, knowing, mixed = gamma(config, Sample(x, tokens))
    assert knowing == 1.0
    assert 0.5 <= mixed < 1.0
    assert blind < 0.3


def test_only_the_rows_asked_for_are_looked_at() -> None:
    x = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    tokens = torch.arange(1000)
    tokens[:100] = 0
    config = ConsistencyWeights(kind="consistency", num_rows=100, active_fraction=0.1)
    assert gamma(config, Sample(x, tokens)) == [1.0, 1.0, 1.0]


def test_too_few_rows_for_a_consistency_are_refused() -> None:
    sample = Sample(torch.randn(100, 3), torch.zeros(100, dtype=torch.int64))
    line = (
        r"terms\.input_weights: found 100 rows, of which a dimension is active on 1; "
        "raise num_rows or active_fraction"
    )
    with pytest.raises(ValueError, match=line):
        gamma(ConsistencyWeights(kind="consistency"), sample)


def given(path: Path) -> GivenWeights:
    return GivenWeights(kind="given", path=str(path), normalisation="none")


def test_weights_are_read_from_files(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.array([1, 2, 3]))
    save_file({"s": torch.tensor([1.0, 2.0, 3.0])}, tmp_path / "s.safetensors")
    values = GivenWeights(kind="given", values=(1, 2, 3), normalisation="none")
    assert gamma(given(tmp_path / "s.npy")) == [1, 2, 3]
    assert gamma(given(tmp_path / "s.safetensors")) == [1, 2, 3]
    assert gamma(values) == [1, 2, 3]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            [1.0, 2.0],
            r"path: found shape \(2,\); the activations of target_hook, else of hook, "
            "have 3 dimensions",
        ),
        ([1.0, 0.0, 2.0], "path: found a score that is not above zero and finite"),
        ([1.0, np.inf, 2.0], "path: found a score that is not above zero and finite"),
        ([{}, {}, {}], "is no .npy file of numbers"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    tmp_path: Path, values: list[object], line: str
) -> None:
    np.save(tmp_path / "s.npy", np.array(values))
    with pytest.raises(ValueError, match=line):
        gamma(given(tmp_path / "s.npy"))


def test_a_file_of_two_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    save_file({"a": torch.ones(3), "b": torch.ones(3)}, path)
    with pytest.raises(ValueError, match=r"path: found 2 tensors in .*; save one alon"):
        gamma(given(path))


def test_the_digest_is_of_the_files_content(tmp_path: Path) -> None:
    for name, value in {"a": 1.0, "b": 1.0, "c": 2.0}.items():
        np.save(tmp_path / f"{name}.npy", np.full(3, value))
    a, b, c = (input_weights.file_digest(given(tmp_path / f"{n}.npy")) for n in "abc")
    assert a == b != c
    assert input_weights.file_digest(VarianceWeights(kind="variance")) is None


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r"path: found no file '/none\.npy'; name"):
        input_weights.file_digest(given(Path("/none.npy")))


@pytest.mark.parametrize("kind", CONFIGS)
def test_weights_of_one_leave_training_as_it_is(kind: str) -> None:
    x = rows(8 * BATCH)
    members = [
        member(kind, TERMS, x, num_steps=8, gamma=gamma)
        for gamma in (None, torch.ones(D_IN))
    ]
    for batch in x.split(BATCH):
        for one in members:
            one.step(batch)
    first, second = (one.state().tensors for one in members)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", ["topk", "relu", "gated", "matryoshka"])
def test_weights_lower_the_error_of_the_dimensions_that_weigh(kind: str) -> None:
    weights = torch.tensor([4.0, 4.0] + [0.1] * (D_IN - 2))
    x = rows(8 * BATCH)

    def error(weights: Tensor | None) -> Tensor:
        sae = trained(kind, TERMS, gamma=weights).export()
        return (sae(x) - x).detach().square().mean(0)

    assert float(error(weights)[:2].sum()) < 0.5 * float(error(None)[:2].sum())


def test_fvu_in_the_curve_is_unweighted() -> None:
    x = rows(BATCH)
    found = []
    for weights in (None, torch.full((D_IN,), 3.0)):
        one = member("topk", TERMS, x, num_steps=1, gamma=weights)
        row = one.step(x)
        assert row is not None
        found.append(row)
    assert found[0]["fvu"] == found[1]["fvu"]
    assert found[1]["loss"] == pytest.approx(9 * found[0]["loss"])
