"""Tree-structured SAEs: a latent may fire only where its parent does.

The codes of Ayonrinde et al. (2024), "Interpretability as compression", where a child's
bits are paid only where its parent is active. How such an SAE is trained is not told
there: ReLU latents under L1, of which orphans are set to zero, are our own choice.
"""

import functools

import torch
from torch import Tensor

from trilemma import activation_functions, losses
from trilemma.codes import Code
from trilemma.config.saes import Tree
from trilemma.kinds import kind, latents
from trilemma.kinds.kind import Averages, Batch, Exported, Forward, Kind, Weights


def make(config: Tree) -> Kind:
    """Return the kind; its SAEs hold the parents."""
    parents = _parents(config)
    return Kind(
        forward=functools.partial(_forward, parents),
        export=functools.partial(_export, parents),
        kept_square=_kept_square(parents),
        coefficient=config.l1_coefficient,
        warmup_fraction=config.sparsity_warmup_fraction,
        parents=parents,
    )


def _forward(parents: Tensor, weights: Weights, batch: Batch) -> Forward:
    known = latents.pre_acts(batch, weights)
    is_on = activation_functions.tree_is_on(known, parents)
    found = latents.where(is_on, batch, weights, known)
    acts = torch.relu(found.values)
    if found.pairs is None:
        acts = acts * is_on
    x_hat = found.decode(acts, weights)
    penalty = losses.l1(acts, batch=len(batch.x))
    return Forward(x_hat, batch.error(x_hat), penalty, Code(acts, found.pairs))


def _export(
    parents: Tensor, weights: Weights, averages: Averages, scale: float
) -> Exported:
    tensors = kind.unscaled(weights, scale) | {"parents": parents}
    return Exported("tree", tensors, None)


def _parents(config: Tree) -> Tensor:
    """Return each latent's parent, -1 for roots; children follow their level."""
    children = torch.arange(config.d_sae - config.num_roots) // config.branching
    return torch.cat([torch.full((config.num_roots,), -1), children])


def _kept_square(parents: Tensor) -> float:
    """Return the mean of the squares kept; see `Kind`.

    It is the share of latents that are, like all their ancestors, above zero.
    """
    share = torch.full((len(parents),), 0.5)
    for start, stop in activation_functions.tree_levels(parents):
        share[start:stop] = share[parents[start:stop]] / 2
    return float(share.mean())
