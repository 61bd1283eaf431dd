"""Optimal SAEs for pairs that exclude each other: less rate, or less distortion.

A row holds at most one pair, so an SAE is optimal if it is so pair by pair. The
optima at a budget are those of `trilemma.theory`.
"""

import torch

from trilemma.proxies import merges, worlds
from trilemma.proxies.worlds import PAIRS, Code, World


def by_rate(world: World) -> list[list[Code]]:
    """Return families of one width each, in which the rate falls.

    At three latents a pair and no distortion, ever more pairs get a latent of their
    own. At two latents a pair, the budget falls from two latents a row to one.
    """
    code = worlds.monosemantic(world)
    counts = range(len(PAIRS) + 1)
    return [
        [merges.merge(code, PAIRS[:num], "conjunctive") for num in counts],
        [code, _mixed(code)],
    ]


def by_distortion(world: World) -> list[list[Code]]:
    """Return families of one latent a row, in which the distortion falls.

    Both begin with the monosemantic SAE. In the first, ever more pairs get a latent of
    their own; in the second, two latents a pair become the best two.
    """
    code = worlds.monosemantic(world)
    alone = [_kept(code, num) for num in range(len(PAIRS) + 1)]
    helped = [
        merges.merge(each, PAIRS[:num], "conjunctive") for num, each in enumerate(alone)
    ]
    return [helped, [alone[0], _mixed(code)]]


def _kept(code: Code, num: int) -> Code:
    """Return one latent a row: of the pairs from `num` on, only the first is kept."""
    acts = code.acts.clone()
    for first, second in PAIRS[num:]:
        acts[:, second] = acts[:, second].where(acts[:, first] == 0, 0.0)
    return Code(code.W_dec, acts)


def _mixed(code: Code) -> Code:
    """Return the two latents a pair, one a row, of least squared error.

    The first stays pure and takes the rows where its concept is alone; the second
    takes the rest, along the direction that explains most of it: the leading
    eigenvector of its second moment. Concepts are equally frequent, so either may be
    the pure one.
    """
    W_dec, acts = code.W_dec.clone(), code.acts.clone()
    for first, second in PAIRS:
        within = code.acts[:, [first, second]]
        rest = within.where(within[:, 1:] > 0, 0.0)
        mixture = torch.linalg.eigh(rest.T @ rest).eigenvectors[:, -1].abs()
        W_dec[second] = mixture @ code.W_dec[[first, second]]
        acts[:, second] = rest @ mixture
        acts[:, first] = within[:, 0].where(within[:, 1] == 0, 0.0)
    return Code(W_dec, acts)
