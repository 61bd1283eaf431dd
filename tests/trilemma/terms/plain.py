"""Every term once more, dense, in float64 and by pairs, straight from its formula."""

import torch
from torch import Tensor

from tests.trilemma.kinds.samples import BATCH


def incoherence(W_dec: Tensor) -> Tensor:
    """Return d_in times the mean over pairs of different rows of squared cosines."""
    num, d_in = W_dec.shape
    total = torch.zeros((), dtype=torch.float64)
    for i in range(num):
        for j in range(num):
            if i != j:
                cosine = torch.cosine_similarity(W_dec[i], W_dec[j], dim=0)
                total = total + cosine.square()
    return d_in * total / (num * (num - 1))


def gates_of(acts: Tensor) -> Tensor:
    return acts / (acts + acts.detach()[acts > 0].mean())


def squared(acts: Tensor) -> Tensor:
    """Return the mean of (f_j / mean f - 1)^2, with the gates' gradient."""
    gates = gates_of(acts)
    f = ((acts > 0) + gates - gates.detach()).sum(0) / BATCH
    return (f / f.mean() - 1).square().mean()


def switch(acts: Tensor) -> Tensor:
    """Return M sum_j f_j P_j of shares that each sum to 1."""
    f, p = (acts > 0).double().sum(0), gates_of(acts).sum(0)
    return acts.shape[1] * (f / f.sum() * p / p.sum()).sum()


def monosemanticity(acts: Tensor, x: Tensor) -> Tensor:
    """Return 1 less the mean over latents of the weighted mean cosine of two rows."""
    scores = []
    for k in range(acts.shape[1]):
        z = acts[:, k]
        low, high = z.detach().min(), z.detach().max()
        if high == low:
            continue
        a = (z - low) / (high - low)
        cosines = torch.cosine_similarity(x[:, None], x[None], dim=2)
        pairs = torch.triu(a[:, None] * a[None], diagonal=1)
        if float(pairs.detach().sum()) > 0:
            scores.append((pairs * cosines).sum() / pairs.sum())
    return 1 - torch.stack(scores).mean()
