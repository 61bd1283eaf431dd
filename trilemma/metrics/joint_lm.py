"""An LM as measures of a joint hook see it: rows are spliced in at all its hooks."""

from collections.abc import Mapping
from typing import Protocol

from jaxtyping import Float, Int64
from torch import Tensor

from trilemma.joint_hook import JointHook
from trilemma.metrics.fidelity import SplicedLM


class ManySplicedLM(SplicedLM, Protocol):
    """An LM that can be run with the activations of several hooks replaced."""

    def logits_all_replaced(
        self,
        tokens: Int64[Tensor, "batch pos"],
        x_hats: Mapping[str, Float[Tensor, "batch pos _"]],
    ) -> Float[Tensor, "batch pos vocab"]:
        """Return the logits with each hook's output replaced."""


class JointLM:
    """An LM whose one hook is a joint one."""

    def __init__(self, lm: ManySplicedLM, joint: JointHook) -> None:
        self._lm = lm
        self._joint = joint

    @property
    def predicts_next(self) -> bool:
        """Return whether the logits are of the next token, as an encoder's are not."""
        return self._lm.predicts_next

    def logits(
        self, tokens: Int64[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos vocab"]:
        """Return the logits of the next token."""
        return self._lm.logits(tokens)

    def logits_replaced(
        self,
        tokens: Int64[Tensor, "batch pos"],
        hook: str,
        x_hat: Float[Tensor, "batch pos width"],
    ) -> Float[Tensor, "batch pos vocab"]:
        """Return the logits with the rows' parts in the place of every hook's own.

        There is only one joint hook, whatever it is called.
        """
        return self._lm.logits_all_replaced(tokens, self._joint.parted(x_hat))

    def embedding(self) -> Float[Tensor, "vocab d_model"]:
        """Return the input embedding."""
        return self._lm.embedding()
