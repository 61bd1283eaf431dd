"""An LM of a joint hook: rows go where their parts belong, in their own units."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.joint_hook import JointHook
from trilemma.metrics import fidelity
from trilemma.metrics.joint_lm import JointLM
from trilemma.sequences import Sequences

JOINT = JointHook(("a", "b"), (2, 3), (0.5, 4.0))
TOKENS = torch.tensor([[1, 2, 3]])


@dataclass
class TwoHooks:
    """An LM whose logits are what stands at its two hooks, side by side."""

    x: Mapping[str, Tensor]
    predicts_next: bool = True

    def logits(self, tokens: Tensor) -> Tensor:
        return self.logits_all_replaced(tokens, self.x)

    def logits_replaced(self, tokens: Tensor, hook: str, x_hat: Tensor) -> Tensor:
        return self.logits_all_replaced(tokens, {**self.x, hook: x_hat})

    def logits_all_replaced(
        self, tokens: Tensor, x_hats: Mapping[str, Tensor]
    ) -> Tensor:
        assert x_hats["a"].shape[:2] == tokens.shape
        return torch.cat([x_hats["a"], x_hats["b"]], -1)

    def embedding(self) -> Tensor:
        return torch.eye(5)


def two_hooks() -> TwoHooks:
    generator = torch.Generator().manual_seed(0)
    return TwoHooks(
        {
            hook: torch.randn(1, 3, width, generator=generator)
            for hook, width in zip(JOINT.hooks, JOINT.widths, strict=True)
        }
    )


def test_rows_put_back_change_nothing() -> None:
    lm = two_hooks()
    found = JointLM(lm, JOINT).logits_replaced(TOKENS, "a+b", JOINT.joined(lm.x))
    torch.testing.assert_close(found, lm.logits(TOKENS))


def test_all_hooks_are_replaced_at_unmasked_tokens_alone() -> None:
    lm = two_hooks()
    joint, rows = JointLM(lm, JOINT), JOINT.joined(lm.x)
    mask = torch.tensor([[1, 0, 0]], dtype=torch.uint8)
    batch = Sequences(TOKENS, torch.zeros_like(TOKENS), mask, rows)
    found = fidelity.logits_with(joint, "a+b", batch, torch.zeros_like(rows))
    torch.testing.assert_close(found[:, 0], lm.logits(TOKENS)[:, 0])
    assert not found[:, 1:].any()


def test_what_needs_no_splice_is_the_lms_own() -> None:
    lm = two_hooks()
    joint = JointLM(lm, JOINT)
    assert joint.predicts_next
    assert torch.equal(joint.logits(TOKENS), lm.logits(TOKENS))
    assert torch.equal(joint.embedding(), lm.embedding())
