"""The sparse code of a batch, with gradients that cost only its nonzero entries."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from trilemma import selection

_LARGEST_INT16 = 32_767


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
    rows = row[:, None].expand(batch, k).flatten()
    flat = (columns + row[:, None] * d_sae).flatten()
    return _support(flat, rows, columns.flatten(), row * k, d_sae)


def batchtopk(pre_acts: Float[Tensor, "batch d_sae"], k: int) -> Support:
    """Return the k x batch largest pairs of the batch.

    Bussmann et al. (2024), "BatchTopK sparse autoencoders", section 3.
    """
    batch, d_sae = pre_acts.shape
    return _from_flat(selection.largest_in_batch(pre_acts, k * batch), batch, d_sae)


def above(
    pre_acts: Float[Tensor, "batch d_sae"], floor: Float[Tensor, "#d_sae"]
) -> Support:
    """Return the pairs whose pre-activation exceeds the floor, strictly."""
    found = (pre_acts > floor).flatten().nonzero().squeeze(1)
    return _from_flat(found, *pre_acts.shape)


def selected_pre_acts(
    x: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, "d_sae"],
    b_dec: Float[Tensor, "d_in"],
    *,
    pre_acts: Float[Tensor, "batch d_sae"],
    support: Support,
) -> Float[Tensor, "num"]:
    """Return (x - b_dec) W_enc + b_enc at the support, taken from `pre_acts`.

    `pre_acts` holds those values already and carries no gradient; the gradient goes
    to the weights and biases, never to x.
    """
    weights = (W_enc, b_enc, b_dec)
    result: Tensor = _SelectedPreActs.apply(x, *weights, pre_acts, support)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
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
    return functional.embedding_bag(
        support.rows_by_column,
        table,
        support.column_starts,
        mode="sum",
        per_sample_weights=values.index_select(0, support.by_column),
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
        return pre_acts.flatten().index_select(0, support.flat)

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


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, support: Support) -> Tensor:
        ctx.save_for_backward(values, W_dec)
        ctx.support = support
        return functional.embedding_bag(
            support.columns,
            W_dec,
            support.row_starts,
            mode="sum",
            per_sample_weights=values,
        )

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor | None, None]:
        (grad,) = grads
        values, W_dec = ctx.saved_tensors
        support: Support = ctx.support
        grad = grad.contiguous()
        # The operator behind embedding_bag's own backward: each pair's dot product
        # without a copy of the rows (mode 0 is "sum"; -1: there is no padding index).
        in_values = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            grad, W_dec, support.columns, support.row_starts, support.rows, 0, -1
        )
        is_trained = ctx.needs_input_grad[1]
        in_W_dec = _sum_by_column(values, grad, support) if is_trained else None
        return in_values, in_W_dec, None
