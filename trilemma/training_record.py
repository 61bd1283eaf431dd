"""What is kept of an SAE in training: rows of its curve, and checkpoints."""

from typing import Any, NamedTuple, TypedDict

from torch import Tensor


class StepRow(TypedDict):
    """A row of the training curve, over the batch of that step.

    What begins with `eval_` is of held-out rows, and None at steps that measure none.
    """

    step: int
    tokens: int
    loss: float
    fvu: float
    l0: float
    dead_fraction: float
    lr: float
    sparsity_coefficient: float
    eval_fvu: float | None
    eval_l0: float | None
    eval_silent_fraction: float | None


class Checkpoint(NamedTuple):
    """All that a member needs to go on as if it had never stopped."""

    tensors: dict[str, Tensor]
    """Weights, moments, counters and averages."""
    values: dict[str, Any]
    """The step, the tokens seen and the curve: JSON values (hence `Any`)."""
