"""Tests of what supports and decoders cost."""

import math

import pytest

from trilemma.metrics import rate_bounds


def test_the_support_of_two_among_four_is_one_of_six() -> None:
    assert rate_bounds.support_bits(2, d_sae=4) == pytest.approx(math.log2(6) + 16)


def test_a_silent_code_has_no_support() -> None:
    assert rate_bounds.support_bits(0, d_sae=4) == 0


def test_a_set_costs_less_than_its_indices_one_by_one() -> None:
    for l0 in (1.5, 8, 64.2):
        indices = l0 * math.log2(4096)
        support = rate_bounds.support_bits(l0, d_sae=4096)
        assert support - rate_bounds.SUPPORT_VALUE_BITS * l0 < indices


def test_the_decoders_cost_falls_with_the_tokens_that_share_it() -> None:
    def bits(num_tokens: int) -> float:
        return rate_bounds.decoder_bits(
            d_sae=1024, d_in=64, weight_bits=16, num_tokens=num_tokens
        )

    assert bits(1) == 1024 * 64 * 16
    assert bits(1 << 20) == 1
