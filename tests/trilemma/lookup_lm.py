"""An LM for tests of splicing: one lookup, one matrix, and nothing in between."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


def _same(logits: Tensor) -> Tensor:
    return logits


@dataclass
class LookupLM:
    """Activations are embeddings of the current token; logits a function of them."""

    table: Tensor
    unembedding: Tensor
    shape: Callable[[Tensor], Tensor] = _same
    predicts_next: bool = True
    hooks: tuple[str, ...] = ("only",)

    def logits(self, tokens: Tensor) -> Tensor:
        return self.shape(self.table[tokens] @ self.unembedding)

    def logits_replaced(self, tokens: Tensor, hook: str, x_hat: Tensor) -> Tensor:
        assert hook in self.hooks
        assert x_hat.shape[:2] == tokens.shape
        return self.shape(x_hat @ self.unembedding)

    def embedding(self) -> Tensor:
        return self.table
