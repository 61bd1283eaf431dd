"""Crosscoders find what two hooks share, and what only one of them has.

Both hooks are linear images of the same sparse features, along directions of their own,
and each has some features besides that the other lacks.
"""

import functools
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.trilemma.kinds.samples import CONFIGS, start_of
from tests.trilemma.kinds.test_recovery import CHANGES
from trilemma import joint_hook, objective
from trilemma.config.training import Training
from trilemma.training import Member

LEAST_COSINE = 0.95
STEPS, BATCH = 400, 256
SHARED, FIRST_ALONE, SECOND_ALONE = 12, 4, 4
NUM_FEATURES = SHARED + FIRST_ALONE + SECOND_ALONE
WIDTHS = {"first": 20, "second": 28}
DENSITY = 0.1


class Toy(NamedTuple):
    """Activations of both hooks, and each feature's direction at each."""

    x: dict[str, Tensor]
    directions: dict[str, Tensor]


@functools.lru_cache(maxsize=1)
def toy() -> Toy:
    generator = torch.Generator().manual_seed(3)
    num = STEPS * BATCH
    is_on = torch.rand(num, NUM_FEATURES, generator=generator) < DENSITY
    acts = is_on * (0.5 + torch.rand(num, NUM_FEATURES, generator=generator))
    directions = {
        hook: functional.normalize(
            torch.randn(NUM_FEATURES, width, generator=generator), dim=1
        )
        for hook, width in WIDTHS.items()
    }
    directions["first"][NUM_FEATURES - SECOND_ALONE :] = 0
    directions["second"][SHARED : SHARED + FIRST_ALONE] = 0
    # The second hook is thirty times as large.
    directions["second"] *= 30
    return Toy({h: acts @ rows for h, rows in directions.items()}, directions)


class Found(NamedTuple):
    """Of each feature the latent nearest to it in joint rows."""

    cosines: dict[str, float]
    """How near its decoder is to the feature's direction at each hook that has it."""
    shares: Tensor
    """Share of the first hook in the norms of its decoder."""


@functools.cache
def found(name: str) -> Found:
    x, directions = toy()
    starts = {hook: start_of(each) for hook, each in x.items()}
    joint = joint_hook.of_starts(starts)
    changes = {"d_sae": 32, "lr": 5e-3, "hook": tuple(x)} | CHANGES.get(name, {})
    config, rows = CONFIGS[name].model_copy(update=changes), joint.joined(x)
    member = Member(
        config,
        Training(dead_after_tokens=20_000),
        start=joint_hook.start(joint, starts),
        rows=rows[objective.rows_to_begin_as(config, len(rows))],
        num_steps=STEPS,
        key="toy",
        device="cpu",
    )
    for batch in rows.split(BATCH):
        member.step(batch)
    decoder = member.export().W_dec.detach()
    joined = joint.joined(directions)
    cosines = functional.normalize(joined) @ functional.normalize(decoder).t()
    nearest = decoder[cosines.argmax(dim=1)]
    cosine_at = {}
    for hook, part in joint.parted(nearest).items():
        has_it = directions[hook].any(dim=1)
        each = functional.cosine_similarity(part, directions[hook])[has_it]
        cosine_at[hook] = float(each.mean())
    norms = joint_hook.decoder_norms(nearest, joint.widths)
    return Found(cosine_at, (norms / norms.sum(dim=1, keepdim=True))[:, 0])


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_feature_is_at_each_hook_is_found(name: str) -> None:
    assert min(found(name).cosines.values()) >= LEAST_COSINE


@pytest.mark.parametrize("name", CONFIGS)
def test_shares_of_decoder_norms_tell_whose_a_feature_is(name: str) -> None:
    shared, first, second = found(name).shares.split(
        [SHARED, FIRST_ALONE, SECOND_ALONE]
    )
    assert 0.3 < float(shared.min()) <= float(shared.max()) < 0.7
    assert float(first.min()) > 0.75
    assert float(second.max()) < 0.25
