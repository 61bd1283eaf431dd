"""The first ten losses of every kind, kept: a change of them must be meant."""

import json
from pathlib import Path

import pytest

from tests.trilemma.kinds.samples import (
    BATCH,
    CONFIGS,
    SHARED,
    rows,
    start_of,
)
from trilemma.training import Member

GOLDEN = Path(__file__).with_name("golden_losses.json")
STEPS = 10


def losses(name: str) -> list[float]:
    x = rows(STEPS * BATCH)
    shared = SHARED.model_copy(update={"log_every_steps": 1})
    member = Member(
        CONFIGS[name],
        shared,
        start=start_of(x),
        num_steps=STEPS,
        key="one",
        device="cpu",
    )
    for batch in x.split(BATCH):
        member.step(batch)
    return [row["loss"] for row in member.curve]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_first_ten_losses_are_the_golden_ones(name: str) -> None:
    # To rounding: processors sum in different orders.
    assert losses(name) == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=2e-3)


def test_every_kind_has_golden_losses() -> None:
    assert json.loads(GOLDEN.read_text()).keys() == CONFIGS.keys()
