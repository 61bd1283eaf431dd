"""End to end: what the LM's predictions lose with the reconstruction spliced in.

Braun et al. (2024), "Identifying functionally important features with end-to-end sparse
dictionary learning": KL(original || spliced) of the next token, the LM itself frozen.
They train on it in place of the squared error; here it is added to it, so that their
"e2e" is its limit for a large coefficient.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from trilemma.kinds.kind import Batch, Forward, Weights
from trilemma.metrics.fidelity import SplicedLM
from trilemma.ranks import ALONE


class Splice(NamedTuple):
    """Where an SAE stands in an LM."""

    lm: SplicedLM
    hook: str
    scale: float
    """What its activations are multiplied by in training."""


def value(
    loss: Literal["kl", "ce"],
    encode_and_decode: Callable[[Weights, Batch], Forward],
    splice: Splice,
    weights: Weights,
    batch: Batch,
    forward: Forward,
) -> Float[Tensor, ""]:
    """Return the loss of the batch's sequences, in nats per prediction.

    As in evaluation, only unmasked tokens are replaced, and only predictions from them
    count. The rows of all sequences are one batch to the kind; every rank has them all.
    """
    sequences = batch.sequences
    assert sequences is not None
    tokens, _, mask, x = sequences
    is_in = mask == 0
    if not bool(is_in[:, :-1].any()):
        return weights["b_dec"].sum() * 0.0
    rows = batch._replace(x=x[is_in] * splice.scale, ranks=ALONE, num_elsewhere=0)
    x_hat = encode_and_decode(weights, rows).x_hat / splice.scale
    replaced = x.masked_scatter(is_in[..., None], x_hat)
    spliced = splice.lm.logits_replaced(tokens, splice.hook, replaced)
    counted = is_in[:, :-1].to(spliced.device)
    log_q = spliced[:, :-1][counted].log_softmax(-1)
    if loss == "ce":
        targets = tokens[:, 1:].to(spliced.device)[counted]
        return batch.mean(functional.nll_loss(log_q, targets))
    # A copy, since the LM's own are of inference mode.
    log_p = splice.lm.logits(tokens).clone()[:, :-1][counted].log_softmax(-1)
    return batch.mean((log_p.exp() * (log_p - log_q)).sum(-1).mean())
