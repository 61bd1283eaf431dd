"""SAEs that are stepped on the same batch: one by one, or those of a shape at once.

At once means one forward and backward pass over stacked weights `[n, ...]`, and one
wait for the device. It is for GPUs, which small SAEs keep waiting for the next of many
short calls. The numbers are each SAE's alone to rounding, not to the bit.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from trilemma import objective
from trilemma.codes import Code
from trilemma.config.saes import SAEConfig
from trilemma.kinds import dense
from trilemma.kinds.kind import Averages, Batch, Forward, Weights
from trilemma.non_finite import NonFiniteLossError
from trilemma.objective import BatchLoss
from trilemma.sequences import Sequences
from trilemma.training import Member
from trilemma.training_record import StepRow

# Products of whole matrices beat a selected few as long as calls, not products, take
# the time: up to about two milliseconds of them on a GPU of 50 TFLOP/s.
_MOST_PRODUCTS = 10**10

Outcome = StepRow | NonFiniteLossError | None
"""Of a step: the row that it logs, if it does, or why it was not taken."""


class Read(NamedTuple):
    """What a member reads besides the batch; None for what it does not."""

    sequences: Sequences | None = None
    y: Float[Tensor, "batch d_out"] | None = None
    """The rows that it is to reconstruct, where they are others."""


Beside = Mapping[str, Read]
"""What each member reads besides the batch, by its key."""


def step(
    members: Sequence[Member],
    x: Float[Tensor, "batch d_in"],
    beside: Beside,
    *,
    num_elsewhere: int = 0,
) -> list[Outcome]:
    """Step members one by one; return what came of it."""
    return [
        _outcome(member, x, beside[member.key], num_elsewhere) for member in members
    ]


def step_batched(
    members: Sequence[Member], x: Float[Tensor, "batch d_in"], beside: Beside
) -> list[Outcome]:
    """Step members, those that can be at once; return what came of it, in order."""
    outcomes: dict[str, Outcome] = {}
    for group in groups(members, x):
        found = _stepped(group, x, beside) if len(group) > 1 else step(group, x, beside)
        outcomes |= {m.key: each for m, each in zip(group, found, strict=True)}
    return [outcomes[member.key] for member in members]


def groups(members: Sequence[Member], x: Tensor) -> list[list[Member]]:
    """Return the members parted into those that may step on a batch at once."""
    found: dict[object, list[Member]] = {}
    for member in members:
        found.setdefault(_alike(member, x), []).append(member)
    return list(found.values())


def _alike(member: Member, x: Tensor) -> object:
    """Return what members have in common that may be stepped at once."""
    config = member.config
    products = x.numel() * config.d_sae
    if dense.forward_of(config) is None or products > _MOST_PRODUCTS:
        return member.key
    return _less_what_differs(config)


@functools.lru_cache(maxsize=1024)
def _less_what_differs(config: SAEConfig) -> object:
    """Return all settings but penalties' coefficients, learning rate and seed."""
    free = {"seed": 0, "lr": None, "l1_coefficient": 0.0, "l0_coefficient": 0.0}
    return tuple(sorted((config.model_dump() | free).items(), key=str))


def _outcome(member: Member, x: Tensor, beside: Read, num_elsewhere: int) -> Outcome:
    try:
        return member.step(x, *beside, num_elsewhere=num_elsewhere)
    except NonFiniteLossError as error:
        return error


def _stepped(members: list[Member], x: Tensor, beside: Beside) -> list[Outcome]:
    """Step alike members at once."""
    batches = [member.batch(x, *beside[member.key]) for member in members]
    found, grads = _passes(members, batches)
    for index, member in enumerate(members):
        member.accept({name: grad[index] for name, grad in grads.items()})
    losses = found.loss.unbind()
    sizes = torch.stack(
        [m.gauge(loss) for m, loss in zip(members, losses, strict=True)]
    )
    outcomes: list[Outcome] = []
    # The one wait for the device.
    for member, batch, each, size in zip(
        members, batches, map(_terms, *found), sizes.tolist(), strict=True
    ):
        try:
            outcomes.append(member.finish(batch, each, size))
        except NonFiniteLossError as error:
            outcomes.append(error)
    return outcomes


class _Found(NamedTuple):
    """What a pass leaves of each member; the first dimension counts them."""

    loss: Float[Tensor, "n"]
    error: Float[Tensor, "n"]
    fvu: Float[Tensor, "n"]
    x_hat: Float[Tensor, "n batch d_out"]
    acts: Float[Tensor, "n batch d_sae"]


def _passes(members: list[Member], batches: list[Batch]) -> tuple[_Found, Weights]:
    """Return what a forward pass finds, and the gradient of each stacked weight."""
    member, batch = members[0], batches[0]
    kind, forward = member.kind, dense.forward_of(member.config)
    assert forward is not None
    has_dead = any(len(each.dead) for each in batches)

    def loss(
        weights: Weights, averages: Averages, coefficient: Tensor, is_dead: Tensor
    ) -> tuple[Tensor, _Found]:
        batched = dataclasses.replace(
            kind,
            forward=forward,
            coefficient=coefficient,  # type: ignore[arg-type]  # each SAE's own
            warmup_fraction=0.0,
            auxk_coefficient=0.0,
        )
        here = batch._replace(averages=averages, dead=batch.dead[:0])
        lost = objective.of_batch(batched, weights, here, variance=member.variance)
        found, total = lost.forward, lost.loss
        if has_dead and kind.auxk_coefficient:
            residual = batch.target - found.x_hat
            total = total + kind.auxk_coefficient * dense.auxk(
                residual, batch, weights, is_dead=is_dead
            )
        left = _Found(total, found.error, lost.fvu, found.x_hat, found.code.acts)
        return total, left

    stacked = (
        _stacked([each.weights for each in members]),
        _stacked([each.averages for each in batches]),
        batch.x.new_tensor(
            [
                m.kind.coefficient_at(b.step, b.num_steps)
                for m, b in zip(members, batches, strict=True)
            ]
        ),
        torch.stack([_mask(each.dead, member.config.d_sae) for each in batches]),
    )
    with member.autocast():
        grads, found = torch.vmap(torch.func.grad(loss, has_aux=True))(*stacked)
    return found, grads


def _terms(
    loss: Tensor, error: Tensor, fvu: Tensor, x_hat: Tensor, acts: Tensor
) -> BatchLoss:
    return BatchLoss(loss, fvu, Forward(x_hat, error, None, Code(acts, None)))


def _stacked(each: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([one[name] for one in each]).detach() for name in each[0]}


def _mask(dead: Tensor, d_sae: int) -> Tensor:
    is_dead = torch.zeros(d_sae, dtype=torch.bool, device=dead.device)
    return is_dead.index_fill_(0, dead, True)
