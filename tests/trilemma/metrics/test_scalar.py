"""Tests of the form in which numbers are reported."""

import json

from trilemma.metrics.scalar import Scalar


def test_a_scalar_is_its_own_json() -> None:
    scalar = Scalar(0.2, None, None, 7, "1", "exact", 1, None)
    assert json.loads(json.dumps(scalar._asdict())) == {
        "value": 0.2,
        "ci_low": None,
        "ci_high": None,
        "n": 7,
        "unit": "1",
        "method": "exact",
        "metric_version": 1,
        "seed": None,
        "reason": None,
    }
