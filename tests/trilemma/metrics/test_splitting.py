"""Which latents split into which: dictionaries whose answer is known."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trilemma.config import Run
from trilemma.metrics import splitting
from trilemma.metrics.baseline import Rows
from trilemma.metrics.splitting import Splits
from trilemma.sequences import Sequences

NUM, D_IN, NUM_ROWS = 8, 12, 2000
PAIRS = [(2 * i, 2 * i + 1) for i in range(NUM // 2)]


@dataclass
class Reader:
    """An SAE that fires where its direction is more than a third present."""

    W_dec: Tensor

    def encode(self, x: Tensor) -> Tensor:
        pre_acts = x @ functional.normalize(self.W_dec, dim=1).T
        return torch.where(pre_acts > 1 / 3, pre_acts, 0.0)

    def decode(self, acts: Tensor) -> Tensor:
        return acts @ self.W_dec


FEATURES = torch.eye(NUM, D_IN)
MERGED = torch.stack([FEATURES[i] + FEATURES[j] for i, j in PAIRS])


@pytest.fixture
def x() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    active = torch.rand(NUM_ROWS, NUM, generator=generator) < 0.1
    return active.float() @ FEATURES


def match(narrow: Tensor, wide: Tensor, x: Tensor, size: int = 500) -> Splits:
    def batches() -> Iterator[Rows]:
        for start in range(0, len(x), size):
            part = x[start : start + size]
            beside = torch.zeros(1, len(part), dtype=torch.int64)
            yield Rows(
                x=part,
                document=np.zeros(len(part), dtype=np.int64),
                position=start + np.arange(len(part)),
                sequences=Sequences(beside, beside, beside.byte(), part[None]),
                kept=torch.arange(len(part)),
            )

    return splitting.splits(Reader(narrow), Reader(wide), batches())


def values(found: Splits) -> dict[str, float | None]:
    return {name: each.value for name, each in splitting.scalars(found).items()}


def test_merged_latents_split_into_their_parts(x: Tensor) -> None:
    found = match(MERGED, FEATURES, x)
    assert [found.children(pair).tolist() for pair in range(4)] == [
        list(pair) for pair in PAIRS
    ]
    assert found.cosine == pytest.approx(np.full(NUM, 0.5**0.5))
    assert found.share == pytest.approx(np.ones(NUM))
    assert values(found) == {
        "children": 2,
        "split_fraction": 1,
        "lost_fraction": 0,
        "new_fraction": 0,
    }


def test_a_dictionary_keeps_itself_however_it_is_scaled(x: Tensor) -> None:
    found = match(FEATURES, 3 * FEATURES.flip(0), x)
    assert found.parent.tolist() == list(range(NUM))[::-1]
    assert values(found)["children"] == 1
    assert values(found)["split_fraction"] == 0


def test_latents_far_from_all_are_new_and_leave_nothing_behind(x: Tensor) -> None:
    found = match(FEATURES[:4], FEATURES[4:], x)
    assert values(found) == {
        "children": 0,
        "split_fraction": 0,
        "lost_fraction": 1,
        "new_fraction": 1,
    }


def test_near_directions_that_fire_apart_do_not_descend(x: Tensor) -> None:
    near = functional.normalize(FEATURES[:1] + 0.9 * FEATURES[1:2], dim=1)
    only_second = x.clone()
    only_second[:, 0] = 0
    found = match(FEATURES[:1], near, only_second)
    assert found.cosine[0] > splitting.LEAST_COSINE
    assert found.share[0] == 0
    assert not found.descends[0]


def test_silent_dictionaries_have_no_number_and_a_reason(x: Tensor) -> None:
    found = splitting.scalars(match(FEATURES, FEATURES, 0 * x))
    assert {each.value for each in found.values()} == {None}
    assert found["children"].reason == "no latent of the narrow SAE fired"
    assert found["new_fraction"].reason == "no latent of the wide SAE fired"


def test_batches_leave_no_trace(x: Tensor) -> None:
    whole, parts = match(MERGED, FEATURES, x), match(MERGED, FEATURES, x, size=7)
    assert all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_the_most_split_come_first(x: Tensor) -> None:
    narrow = torch.cat([FEATURES[4:5], MERGED[:1]])
    found = match(narrow, FEATURES, x)
    assert found.most_split(10) == [1]
    assert found.columns()["parent"][:2].tolist() == [1, 1]


def test_an_sae_is_compared_with_the_next_narrower_most_like_it() -> None:
    run = Run.model_validate(
        {
            "name": "widths",
            "toy": {"num_features": 8, "d_in": 8},
            "saes": [
                {"kind": "batchtopk", "d_sae": 16, "k": 2},
                {"kind": "topk", "d_sae": 16, "k": 2},
                {"kind": "topk", "d_sae": 32, "k": 2},
                {"kind": "topk", "d_sae": 64, "k": 2},
            ],
        }
    )
    names = [member.name for member in run.family() if not member.is_control]
    widths = dict(zip(names, [16, 16, 32, 64], strict=True))
    assert splitting.couples(run.family(), widths) == [
        (names[1], names[2]),
        (names[2], names[3]),
    ]
