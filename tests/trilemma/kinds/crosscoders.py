"""Samples as crosscoders of two hooks of unlike widths and sizes, and their rows."""

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
from trilemma import joint_hook
from trilemma.config.saes import SAEConfig
from trilemma.joint_hook import JointHook
from trilemma.training import Member

WIDTHS = {"near": 3, "far": 5}
HOOKS = {"hook": tuple(WIDTHS)}
CROSSCODERS: dict[str, SAEConfig] = {
    name: config.model_copy(update=HOOKS) for name, config in CONFIGS.items()
}
assert sum(WIDTHS.values()) == D_IN


def activations(num: int) -> dict[str, Tensor]:
    """Return the activations of both hooks: those of one are a hundred times as large.

    They have means, and are functions of the same.
    """
    near, far = torch.split(rows(num), list(WIDTHS.values()), 1)
    return {"near": near + 0.1 * far[:, :3], "far": 100 * far + 7}


def joint_of(x: dict[str, Tensor]) -> JointHook:
    """Return the joint hook of activations."""
    return joint_hook.of_starts({hook: start_of(each) for hook, each in x.items()})


def crosscoder_of(
    config: SAEConfig, x: dict[str, Tensor], num_steps: int, **changes: object
) -> Member:
    """Return a crosscoder in training on the CPU."""
    starts = {hook: start_of(each) for hook, each in x.items()}
    return Member(
        config,
        SHARED.model_copy(update=changes),
        start=joint_hook.start(joint_hook.of_starts(starts), starts),
        num_steps=num_steps,
        key="one",
        device="cpu",
    )


def trained_by(member: Member, x: dict[str, Tensor], stop: int) -> Member:
    """Return the member after its steps up to `stop`, on batches in turn."""
    joined = joint_of(x).joined(x)
    num = len(joined) // BATCH
    while member.step_index < stop:
        first = member.step_index % num * BATCH
        member.step(joined[first : first + BATCH])
    return member
