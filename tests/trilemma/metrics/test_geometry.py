"""Tests of a dictionary's geometry."""

import numpy as np
import pytest
import torch
from torch import Tensor

from trilemma.metrics import geometry
from trilemma.metrics.geometry import Geometry


def of(
    directions: Tensor,
    *,
    is_live: list[bool] | None = None,
    W_enc: Tensor | None = None,
) -> Geometry:
    live = (
        np.ones(len(directions), dtype=bool) if is_live is None else np.array(is_live)
    )
    return geometry.geometry(directions, W_enc, is_live=live)


@pytest.fixture
def directions() -> Tensor:
    return torch.randn(50, 12, generator=torch.Generator().manual_seed(0))


def test_geometry_equals_that_of_the_whole_matrix_of_cosines(
    directions: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geometry, "_BLOCK_COSINES", 350)
    unit = torch.nn.functional.normalize(directions.double(), dim=1)
    cosine = unit @ unit.T
    others = cosine[~torch.eye(50, dtype=torch.bool)].reshape(50, 49)
    found = of(directions)
    assert found.dict_cos == pytest.approx(others.amax(1).numpy(), abs=1e-6)
    assert found.mean_dict_cos == pytest.approx(float(others.amax(1).mean()))
    assert found.c_dec == pytest.approx(float(others.abs().mean()))
    assert found.mutual_coherence == pytest.approx(float(others.abs().max()))


def test_orthogonal_directions_have_no_coherence() -> None:
    found = of(torch.eye(6))
    assert (found.mean_dict_cos, found.c_dec, found.mutual_coherence) == (0, 0, 0)
    assert found.duplicate_fraction == 0


def test_an_opposite_direction_is_coherent_but_no_duplicate() -> None:
    found = of(torch.tensor([[1.0, 0], [-2.0, 0]]))
    assert found.dict_cos.tolist() == [-1, -1]
    assert (found.mutual_coherence, found.duplicate_fraction) == (1, 0)


def test_duplicates_are_counted_whatever_their_length(directions: Tensor) -> None:
    doubled = torch.cat([torch.eye(12), 7 * torch.eye(12)[:3]])
    assert of(doubled).duplicate_fraction == pytest.approx(6 / 15)


def test_latents_that_are_not_live_do_not_count(directions: Tensor) -> None:
    directions[-1] = directions[0]
    found = of(directions, is_live=[True] * 49 + [False])
    assert np.isnan(found.dict_cos[-1])
    assert found.dict_cos[:-1] == pytest.approx(of(directions[:-1]).dict_cos)
    assert found.c_dec == of(directions[:-1]).c_dec


def test_a_direction_without_length_has_no_cosine(directions: Tensor) -> None:
    encoder, decoder = directions.T.clone(), directions.clone()
    encoder[:, 0], decoder[1] = 0, 0
    found = of(decoder, W_enc=encoder)
    assert found.enc_dec_cos is not None
    assert np.flatnonzero(np.isnan(found.enc_dec_cos)).tolist() == [0, 1]
    assert np.flatnonzero(np.isnan(found.dict_cos)).tolist() == [1]
    kept = torch.cat([directions[:1], directions[2:]])
    assert found.c_dec == pytest.approx(of(kept).c_dec)


def test_encoder_and_decoder_are_compared_latent_by_latent(directions: Tensor) -> None:
    encoder = directions.T.clone() * 3
    encoder[:, 1] *= -1
    found = of(directions, W_enc=encoder).enc_dec_cos
    assert found is not None
    assert found == pytest.approx([1, -1] + [1] * 48)


@pytest.mark.parametrize("num_live", [0, 1])
def test_fewer_than_two_live_latents_have_no_pairs(
    directions: Tensor, num_live: int
) -> None:
    found = of(directions, is_live=[i < num_live for i in range(50)])
    assert found.mean_dict_cos is found.c_dec is found.mutual_coherence is None
    assert found.duplicate_fraction is None
    assert np.isnan(found.dict_cos).all()
