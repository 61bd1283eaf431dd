"""What an SAE in training reaches on held-out rows."""

import pytest
import torch

from tests.trilemma.kinds.samples import BATCH, CONFIGS, member_of, rows, trained_by
from trilemma import held_out

STEPS = 30


@pytest.mark.parametrize("kind", CONFIGS)
def test_measures_are_those_of_the_exported_sae_written_out(kind):
    x = rows(STEPS * BATCH)
    sae = trained_by(member_of(CONFIGS[kind], x, STEPS), x, STEPS).export()
    unseen = rows(STEPS * BATCH + 1500)[-1500:]  # more than one block
    found = held_out.measure(sae, unseen)
    acts = sae.encode(unseen).detach()
    x_hat = sae.decode(acts).detach()
    error = (unseen.double() - x_hat.double()).square().sum()
    variance = (unseen.double() - unseen.double().mean(0)).square().sum()
    assert found.fvu == pytest.approx(float(error / variance), rel=1e-6)
    assert found.l0 == pytest.approx(float((acts != 0).sum()) / 1500)
    assert found.silent_fraction == float((acts == 0).all(0).double().mean())


def test_an_sae_that_predicts_the_mean_has_an_fvu_of_one():
    x = rows(2000)
    sae = member_of(CONFIGS["topk"], x, STEPS).export()
    with torch.no_grad():
        sae.b_dec.copy_(x.mean(0))
        sae.b_enc.fill_(-1e6)
    found = held_out.measure(sae, x)
    assert found.fvu == pytest.approx(1.0)
    assert (found.l0, found.silent_fraction) == (0.0, 1.0)


def test_rows_that_do_not_vary_have_no_fvu():
    x = rows(2000)
    sae = member_of(CONFIGS["topk"], x, STEPS).export()
    assert held_out.measure(sae, x[:1]).fvu is None
