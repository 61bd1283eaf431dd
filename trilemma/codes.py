"""The sparse code of a batch, with gradients that cost only its nonzero entries."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from trilemma import selection, sparse_products

_LARGEST_INT16 = 32_767


class Code(NamedTuple):
    """The activations of a batch, at some pairs or at all."""

    acts: Tensor
    """`[num]` at the support, or `[batch, d_sae]`; none is below zero."""
    support: "Support | None"
    """None: all pairs."""

    def num_on(self) -> Int64[Tensor, ""]:
        """Return how many activations are above zero."""
        return (self.acts > 0).sum()

    def fired(self, d_sae: int) -> Bool[Tensor, "d_sae"]:
        """Return which latents have an activation above zero in any row."""
        is_on = self.acts > 0
        if self.support is None:
            return is_on.any(0)
        # Pairs that are off are sent to a place after the last latent.
        columns = torch.where(is_on, self.support.columns, d_sae)
        found = is_on.new_zeros(d_sae + 1)
        return found.index_fill_(0, columns, True)[:-1]


class Support(NamedTuple):
    """The (row, latent) pairs at which a code may differ from zero."""

    rows: Int64[Tensor, "num"]
    """Row of each pair, ascending."""
    columns: Int64[Tensor, "num"]
    """Latent of each pair."""
    row_starts: Int64[Tensor, "batch"]
    """Where each row's pairs begin."""
    flat: Int64[Tensor, "num"]
    """Where each pair stands in the flattened batch of pre-activations."""
    by_column: Int64[Tensor, "num"]
    """The order that sorts pairs by latent, then by row."""
    rows_by_column: Int64[Tensor, "num"]
    """Rows in that order."""
    column_starts: Int64[Tensor, "d_sae"]
    """Where each latent's pairs begin in that order."""


def topk(pre_acts: Float[Tensor, "batch d_sae"], k: int) -> Support:
    """Return the k largest latents of each row."""
    batch, d_sae = pre_acts.shape
    columns = selection.largest_in_rows(pre_acts, k)
    row = torch.arange(batch, device=columns.device)
    # Of one row `flatten` alone leaves a view, which sums over pairs do not take.
    rows = row[:, None].expand(batch, k).flatten().contiguous()
    flat = (columns + row[:, None] * d_sae).flatten()
    return _support(flat, rows, columns.flatten(), row * k, d_sae)


def batchtopk(pre_acts: Float[Tensor, "batch d_sae"], k: int) -> Support:
    """Return the k x batch largest pairs of the batch.

    Bussmann et al. (2024), "BatchTopK sparse autoencoders", section 3.
    """
    batch, d_sae = pre_acts.shape
    return _from_flat(selection.largest_in_batch(pre_acts, k * batch), batch, d_sae)


def where(is_in: Bool[Tensor, "batch d_sae"]) -> Support:
    """Return the pairs that a mask holds."""
    return _from_flat(selection.true_places(is_in.flatten()), *is_in.shape)


def selected_pre_acts(
    x: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, "d_sae"],
    b_dec: Float[Tensor, "d_in"],
    *,
    pre_acts: Float[Tensor, "batch d_sae"],
    support: Support,
) -> Float[Tensor, "num"]:
    """Return (x - b_dec) W_enc + b_enc at the support, float32, from `pre_acts`.

    `pre_acts` holds those values already and carries no gradient; the gradient goes
    to the weights and biases, never to x.
    """
    weights = (W_enc, b_enc, b_dec)
    result: Tensor = _SelectedPreActs.apply(x, *weights, pre_acts, support)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return result


def all_pre_acts(
    x: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, "d_sae"],
    b_dec: Float[Tensor, "d_in"],
    *,
    pre_acts: Float[Tensor, "batch d_sae"],
) -> Float[Tensor, "batch d_sae"]:
    """Return `pre_acts`, with the gradient that it had if it were computed here.

    The gradient goes to the weights and biases, never to x; its products have the
    precision of `pre_acts`.
    """
    result: Tensor = _AllPreActs.apply(x, W_enc, b_enc, b_dec, pre_acts)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return result


def decode(
    values: Float[Tensor, "num"],
    W_dec: Float[Tensor, "d_sae d_in"],
    *,
    support: Support,
) -> Float[Tensor, "batch d_in"]:
    """Return the sum over each row's pairs of value times decoder row."""
    result: Tensor = _Decode.apply(values, W_dec, support)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return result


def decode_nested(
    values: Float[Tensor, "num"],
    W_dec: Float[Tensor, "d_sae d_in"],
    *,
    support: Support,
    widths: Sequence[int],
) -> Float[Tensor, "num_widths batch d_in"]:
    """Return what the pairs below each width decode to; the widths rise to d_sae."""
    batch = len(support.row_starts)
    ends = torch.tensor(widths, device=support.columns.device)
    bags = torch.bucketize(support.columns, ends, right=True) * batch + support.rows
    order = bags.argsort(stable=True)
    rows, columns = bags.index_select(0, order), support.columns.index_select(0, order)
    counts = torch.bincount(rows, minlength=batch * len(widths))
    # Each width has rows of its own, which hold what it adds to the width before.
    pieces = _support(
        support.flat.index_select(0, order),
        rows,
        columns,
        counts.cumsum(0) - counts,
        len(W_dec),
    )
    added = decode(values.index_select(0, order), W_dec, support=pieces)
    return added.view(len(widths), batch, -1).cumsum(0)


def _from_flat(flat: Tensor, batch: int, d_sae: int) -> Support:
    rows = flat // d_sae
    counts = torch.bincount(rows, minlength=batch)
    row_starts = counts.cumsum(0) - counts
    return _support(flat, rows, flat - rows * d_sae, row_starts, d_sae)


def _support(
    flat: Tensor, rows: Tensor, columns: Tensor, row_starts: Tensor, d_sae: int
) -> Support:
    # A radix sort takes as many passes as the integer has bytes.
    narrow = torch.int16 if d_sae <= _LARGEST_INT16 else torch.int32
    by_column = columns.to(narrow).argsort(stable=True)
    counts = torch.bincount(columns, minlength=d_sae)
    return Support(
        rows=rows,
        columns=columns,
        row_starts=row_starts,
        flat=flat,
        by_column=by_column,
        rows_by_column=rows.index_select(0, by_column),
        column_starts=counts.cumsum(0) - counts,
    )


def _sum_by_column(values: Tensor, table: Tensor, support: Support) -> Tensor:
    """Return, for each latent, the sum over its pairs of value times table row."""
    weights = values.index_select(0, support.by_column)
    return sparse_products.bag_sums(
        support.rows_by_column, table, support.column_starts, weights
    )


# `Any` below: the context is torch's own, which has no type for saved attributes.


class _SelectedPreActs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        b_dec: Tensor,
        pre_acts: Tensor,
        support: Support,
    ) -> Tensor:
        ctx.save_for_backward(x - b_dec, W_enc)
        ctx.support = support
        return pre_acts.flatten().index_select(0, support.flat).float()

    @staticmethod
    def backward(
        ctx: Any, *grads: Any
    ) -> tuple[None, Tensor, Tensor, Tensor, None, None]:
        (grad,) = grads
        centred, W_enc = ctx.saved_tensors
        support: Support = ctx.support
        in_W_enc = _sum_by_column(grad, centred, support).t()
        in_b_enc = torch.zeros_like(W_enc[0]).index_add_(0, support.columns, grad)
        # b_dec shifts every row alike, so its gradient needs only the rows' sum.
        return None, in_W_enc, in_b_enc, -(W_enc @ in_b_enc), None, None


class _AllPreActs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor, known: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x - b_dec, W_enc)
        return known.view_as(known)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[None, Tensor, Tensor, Tensor, None]:
        (grad,) = grads
        centred, W_enc = ctx.saved_tensors
        in_W_enc = (centred.to(grad.dtype).t() @ grad).float()
        in_b_enc = grad.sum(0, dtype=torch.float32)
        return None, in_W_enc, in_b_enc, -(W_enc @ in_b_enc), None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, support: Support) -> Tensor:
        ctx.save_for_backward(values, W_dec)
        ctx.support = support
        if values.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # Half the bytes to gather; the sum is float32 inside.
            narrow = torch.get_autocast_dtype("cpu")
            W_dec, values = W_dec.to(narrow), values.to(narrow)
        x_hat = sparse_products.bag_sums(
            support.columns, W_dec, support.row_starts, values
        )
        return x_hat.float()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor | None, None]:
        (grad,) = grads
        values, W_dec = ctx.saved_tensors
        support: Support = ctx.support
        grad = grad.contiguous()
        in_values = sparse_products.pair_dots(
            grad,
            W_dec,
            left_places=support.rows,
            right_places=support.columns,
            starts=support.row_starts,
        )
        is_trained = ctx.needs_input_grad[1]
        in_W_dec = _sum_by_column(values, grad, support) if is_trained else None
        return in_values, in_W_dec, None
