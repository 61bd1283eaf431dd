"""Which pre-activations are the largest, in each row or in a whole batch, exactly."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

# A batch is first thinned by a guess from every 61st entry (a prime, so that the
# sample runs through all latents); below this size that is slower than sorting it.
_SAMPLE_STRIDE = 61
_SMALLEST_TO_THIN = 65_536
_MARGIN = 1.2
_ENTRIES_IN_WORD = 8


def largest_in_rows(
    pre_acts: Float[Tensor, "batch d_sae"], k: int
) -> Int64[Tensor, "batch k"]:
    """Return the latents of the k largest pre-activations of each row, unordered.

    The k largest entries lie in the k blocks with the largest maxima, so only those
    blocks are searched: half the time of one search, or less. In bfloat16 the order
    holds among positive entries, which stand above all others.
    """
    pre_acts = _ordered(pre_acts)
    batch, d_sae = pre_acts.shape
    block = _block_size(d_sae, k)
    if block == 1:
        return pre_acts.topk(k, dim=1, sorted=False).indices
    num_blocks = d_sae // block
    blocked = pre_acts.view(batch, block, num_blocks)
    best = blocked.amax(dim=1).topk(k, dim=1, sorted=False).indices
    candidates = blocked.gather(2, best[:, None, :].expand(batch, block, k))
    found = candidates.reshape(batch, block * k).topk(k, dim=1, sorted=False).indices
    return best.gather(1, found % k) + (found // k) * num_blocks


def largest_in_batch(
    pre_acts: Float[Tensor, "batch d_sae"], num: int
) -> Int64[Tensor, "num_found"]:
    """Return the flat indices, ascending, of the `num` largest pre-activations.

    Of equal entries the first are taken, so exactly `num` come back (fewer only where
    pre-activations are not finite). In bfloat16 the order is that of `largest_in_rows`.
    """
    flat = _ordered(pre_acts).flatten()
    candidates = _candidates(flat, num)
    values = flat if candidates is None else flat.index_select(0, candidates)
    cut = values.topk(num, sorted=False).values.min()
    above, equal = values > cut, values == cut
    room = num - above.sum()
    kept = (above | (equal & (equal.cumsum(0) <= room))).nonzero().squeeze(1)
    return kept if candidates is None else candidates.index_select(0, kept)


def true_places(mask: Bool[Tensor, "num"]) -> Int64[Tensor, "num_true"]:
    """Return where a mask is true, ascending; quick where that is seldom.

    Eight entries are looked at as one integer, and only those that are not 0 opened.
    """
    if mask.numel() % _ENTRIES_IN_WORD:
        return mask.nonzero().squeeze(1)
    words = mask.view(torch.int64).nonzero().squeeze(1)
    opened = mask.view(-1, _ENTRIES_IN_WORD).index_select(0, words)
    found = opened.flatten().nonzero().squeeze(1)
    within = found % _ENTRIES_IN_WORD
    return words.index_select(0, found // _ENTRIES_IN_WORD) * _ENTRIES_IN_WORD + within


def _block_size(d_sae: int, k: int) -> int:
    """Return the power of two that divides d_sae and is nearest to sqrt(d_sae / k)."""
    block = 1
    while 2 * block**2 * k <= d_sae and d_sae % (2 * block) == 0:
        block *= 2
    return block


def _candidates(flat: Tensor, num: int) -> Tensor | None:
    """Return indices that include the `num` largest, or None where all may be."""
    if flat.numel() < _SMALLEST_TO_THIN:
        return None
    sample = flat[::_SAMPLE_STRIDE]
    size = int(_MARGIN * num * sample.numel() / flat.numel()) + 64
    if size >= sample.numel():
        return None
    floor = sample.topk(size, sorted=False).values.min()
    found = true_places(flat >= floor)
    return found if found.numel() >= num else None


def _ordered(pre_acts: Tensor) -> Tensor:
    """Return numbers in the order of the positive entries, and below them the rest.

    The bits of a positive bfloat16, read as an integer, have the order of the number,
    and those of a negative one are below zero. Integers are searched several times as
    fast; what is below zero has no activation whatever its order. NaN may stand at
    either end: it is for the loss to tell.
    """
    if pre_acts.dtype == torch.bfloat16:
        return pre_acts.view(torch.int16)
    return pre_acts
