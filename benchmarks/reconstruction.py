"""One evaluator for all contestants of the training benchmark: plain formulas."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.trainers.serving import Contest


class Quality(NamedTuple):
    """How well weights do on the rows held out."""

    fvu: float
    l0: float


@torch.no_grad()
def quality(contest: Contest, weights: Mapping[str, Tensor]) -> Quality:
    """Return FVU and L0 of weights as `Trainer.weights` names them, in float32.

    BatchTopK keeps the largest pairs of the rows held out, as it does in training.
    """
    x = load_file(contest.rows)["held_out"]
    pre_acts = (x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    match contest.kind:
        case "topk":
            floor = pre_acts.topk(contest.k, dim=1).values[:, -1:]
        case "batchtopk":
            floor = pre_acts.flatten().topk(contest.k * len(x)).values[-1]
        case "jumprelu":
            floor = weights["threshold"]
        case _:
            floor = torch.zeros(())
    acts = torch.relu(pre_acts) * (pre_acts >= floor)
    x_hat = acts @ weights["W_dec"] + weights["b_dec"]
    fvu = (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()
    return Quality(float(fvu), float((acts > 0).sum()) / len(x))
