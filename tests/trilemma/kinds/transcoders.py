"""Every sample as a transcoder, with and without a skip, and rows to train them on."""

import torch
from torch import Tensor

from tests.trilemma.kinds.samples import (
    BATCH,
    CONFIGS,
    D_IN,
    SHARED,
    rows,
    start_of,
)
from trilemma.config.saes import SAEConfig
from trilemma.training import Member

D_OUT = 6
HOOKS = {"hook": "read", "target_hook": "written"}
TRANSCODERS: dict[str, SAEConfig] = {
    f"{name}{'-skip' if skip else ''}": config.model_copy(update=HOOKS | {"skip": skip})
    for name, config in CONFIGS.items()
    for skip in (False, True)
}


def targets(x: Tensor) -> Tensor:
    """Return what is to be predicted: of another width, another size, and a mean."""
    generator = torch.Generator().manual_seed(6)
    into = torch.randn(D_IN, D_OUT, generator=generator)
    return 0.1 * torch.relu(x @ into) - 0.4 * x[:, :D_OUT] + 0.5


def transcoder_of(
    config: SAEConfig, x: Tensor, y: Tensor, num_steps: int, **changes: object
) -> Member:
    """Return a transcoder in training on the CPU."""
    return Member(
        config,
        SHARED.model_copy(update=changes),
        start=start_of(x),
        target_start=start_of(y),
        num_steps=num_steps,
        key="one",
        device="cpu",
    )


def trained_by(member: Member, x: Tensor, y: Tensor, stop: int) -> Member:
    """Return the member after its steps up to `stop`, on batches in turn."""
    num = len(x) // BATCH
    while member.step_index < stop:
        first = member.step_index % num * BATCH
        batch = slice(first, first + BATCH)
        member.step(x[batch], y=y[batch])
    return member


def pairs(num: int) -> tuple[Tensor, Tensor]:
    """Return rows that are read, and those to be predicted from them."""
    x = rows(num)
    return x, targets(x)
