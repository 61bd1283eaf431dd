"""Group-sparse SAEs: latents of a group are cheap together and dear apart.

ReLU latents under the group lasso of Yuan and Lin (2006): the penalty is the sum over
groups of sqrt(size) times the Euclidean norm of the group's activations. A code of
groups names each group once (Ayonrinde et al., 2024, "Interpretability as
compression", on structured codes).
"""

import functools
import math

import torch

from trilemma import losses
from trilemma.codes import Code
from trilemma.config.saes import Group
from trilemma.kinds import latents, relu
from trilemma.kinds.kind import Batch, Forward, Kind, Weights


def make(config: Group) -> Kind:
    """Return the kind; at inference it is a ReLU SAE."""
    return Kind(
        forward=functools.partial(_forward, config.group_size),
        export=relu.export,
        coefficient=config.l1_coefficient,
        warmup_fraction=config.sparsity_warmup_fraction,
    )


def _forward(size: int, weights: Weights, batch: Batch) -> Forward:
    known = latents.pre_acts(batch, weights)
    found = latents.all_of(batch, weights, known)
    acts = torch.relu(found.values)
    x_hat = found.decode(acts, weights)
    grouped = acts.float().view(len(acts), -1, size)
    norms = torch.linalg.vector_norm(grouped, dim=2)
    penalty = losses.l1(norms, batch=len(batch.x)) * math.sqrt(size)
    return Forward(x_hat, batch.error(x_hat), penalty, Code(acts, None))
