"""The code of a structured SAE: a latent's bits are paid only where its parent is on.

Ayonrinde, Pearce and Sharkey 2024 (MDL-SAEs), on directed trees. A group is a tree of
its own here: its root, which the SAE does not have, is on where any member is.
"""

import numpy as np
from jaxtyping import Int64

from trilemma.metrics import rate


def group_parents(d_sae: int, *, group_size: int) -> Int64[np.ndarray, " node"]:
    """Return the parents of latents in consecutive groups; each root follows them."""
    num_groups = d_sae // group_size
    groups = np.arange(d_sae) // group_size
    return np.concatenate([d_sae + groups, np.full(num_groups, -1)])


def code_length(
    codes: rate.Codes,
    symbol: Int64[np.ndarray, " entry"],
    parents: Int64[np.ndarray, " node"],
) -> rate.CodeLength:
    """Return the bits of each row where children are coded given their parents.

    `parents` has an entry for each latent, -1 for a root, and after them one for each
    node that is no latent, whose symbol only says that a child is on. The mean is
    `sum_j P(parent on) H(q_j | parent on)`.
    """
    parent = parents[codes.latent]
    is_virtual = parent >= codes.d_sae
    pairs = np.unique(codes.row[is_virtual] * len(parents) + parent[is_virtual])
    nodes = codes._replace(
        row=np.concatenate([codes.row, pairs // len(parents)]),
        latent=np.concatenate([codes.latent, pairs % len(parents)]),
        value=np.concatenate([codes.value, np.ones(len(pairs), dtype=np.float32)]),
        d_sae=len(parents),
    )
    symbols = np.concatenate([symbol, np.ones(len(pairs), dtype=np.int64)])
    return rate.code_length(nodes, symbols, parents=parents)
