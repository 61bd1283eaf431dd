"""The end of a harvest: statistics are those of the rows that count in the end."""

import itertools

import numpy as np
import pytest
import torch

from storage.places import LocalPlace
from storage.store import Store
from tasks.interruption import Interrupted
from tests.storage import stores
from tests.tasks import array_sources
from tests.tasks.array_sources import CTX, HOOK, OTHER, RATIO, WIDTHS
from trilemma.sequences import MASK_HIGH_NORM, MASK_SPECIAL

CHUNK_SEQS, NUM_CHUNKS = 16, 8
NUM_SEQS = NUM_CHUNKS * CHUNK_SEQS - 5
LOUD, QUIET = 2, 5
"""Chunks whose own median norm is far from that of the split."""
HIGH_IN_SPLIT = (LOUD * CHUNK_SEQS + 3) * CTX + 1
HIGH_IN_CHUNK = (QUIET * CHUNK_SEQS + 3) * CTX + 1
BARELY_HIGH = (4 * CHUNK_SEQS + 4) * CTX + 3
HIGH_IN_BOTH = (3 * CHUNK_SEQS + 4) * CTX + 2
HIGH_AND_MASKED = 7 * CTX
QUANTILES = {
    "norm_q01": 0.01,
    "norm_q05": 0.05,
    "norm_q50": 0.5,
    "norm_q95": 0.95,
    "norm_q99": 0.99,
}


def planted():
    """Return rows, some of whose norms are high in their chunk, the split or both."""
    x = array_sources.activations(NUM_SEQS, {HOOK: 24, OTHER: 8})
    rows = torch.arange(NUM_SEQS * CTX) // (CHUNK_SEQS * CTX)
    x[HOOK][rows == LOUD] *= 4
    x[HOOK][rows == QUIET] *= 0.2
    first = torch.arange(NUM_SEQS * CTX) % CTX == 0
    x[HOOK][first] *= 8  # as a first position is, which does not count
    middle = x[HOOK][~first].norm(dim=1).median()
    for row, medians in {
        BARELY_HIGH: 10.2,
        HIGH_IN_SPLIT: 13,
        HIGH_IN_CHUNK: 4,
        HIGH_IN_BOTH: 50,
        HIGH_AND_MASKED: 50,
    }.items():
        x[HOOK][row] *= medians * middle / x[HOOK][row].norm()
    return x


def reference(x, known):
    """Return statistics and the final mask by NumPy, in float64, of all rows at once.

    `x` are the rows of each hook as they are read back.
    """
    norms = {hook: np.linalg.norm(rows, axis=1) for hook, rows in x.items()}
    mask = known.copy()
    for norm in norms.values():
        mask[norm > RATIO * np.median(norm[known == 0])] |= MASK_HIGH_NORM
    found = {}
    for hook, rows in x.items():
        kept, norm = rows[mask == 0], norms[hook][mask == 0]
        found[hook] = {
            "count": len(kept),
            "mean": kept.mean(0),
            "variance": kept.var(0),
            "mean_squared_norm": (norm**2).mean(),
            "max_abs": np.abs(kept).max(),
            "high_norm_rows": np.count_nonzero(mask & MASK_HIGH_NORM),
            **{name: np.quantile(norm, at) for name, at in QUANTILES.items()},
        }
    return found, mask


def finished(folder, layout, x, *, mask=None):
    """Return the open store of a finished split, and the mask known before."""
    place, source = LocalPlace(folder), array_sources.source(x, 5)
    if mask is not None:
        source = source._replace(mask=mask)
    found = array_sources.harvest(place, layout, source, 5)
    stores.commit(place, found.files)
    known = source.mask(array_sources.tokens_of(source.num_seqs)).reshape(-1)
    return Store.open(folder / "train.zarr"), known


def read(store):
    return {
        hook: store.read(hook, 0, store.num_tokens).double().numpy()
        for hook in store.hooks
    }


def layout_of(dtype, shard_chunks):
    return array_sources.layout(
        dtype,
        shard_chunks=shard_chunks,
        chunk_seqs=CHUNK_SEQS,
        widths={HOOK: 24, OTHER: 8},
    )


def test_planted_rows_are_high_in_the_split_or_in_their_chunk_alone():
    x = planted()[HOOK].double().numpy()
    norm = np.linalg.norm(x, axis=1)
    length = CHUNK_SEQS * CTX
    counts = np.arange(len(norm)) % CTX != 0

    def threshold(rows):
        return RATIO * np.median(norm[rows][counts[rows]])

    own = {
        row: threshold(slice(row - row % length, row - row % length + length))
        for row in (HIGH_IN_SPLIT, HIGH_IN_CHUNK)
    }
    whole = threshold(slice(None))
    assert whole < norm[HIGH_IN_SPLIT] < own[HIGH_IN_SPLIT]
    assert own[HIGH_IN_CHUNK] < norm[HIGH_IN_CHUNK] < whole


@pytest.mark.parametrize("shard_chunks", [None, 3])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_statistics_are_those_of_numpy_on_all_rows(tmp_path, dtype, shard_chunks):
    store, known = finished(tmp_path, layout_of(dtype, shard_chunks), planted())
    expected, mask = reference(read(store), known)
    assert np.array_equal(store.mask(0, store.num_tokens), mask)
    assert mask[HIGH_IN_SPLIT] == mask[BARELY_HIGH] == MASK_HIGH_NORM
    assert mask[HIGH_IN_CHUNK] == 0
    assert mask[HIGH_AND_MASKED] == known[HIGH_AND_MASKED] | MASK_HIGH_NORM
    for hook in store.hooks:
        found = store.statistics(hook)
        found |= {
            "mean": store.mean(hook).numpy(),
            "variance": store.group[f"{hook}/variance"][:],
        }
        for name, value in expected[hook].items():
            np.testing.assert_allclose(found[name], value, rtol=2e-5, err_msg=name)
        share = expected[hook]["high_norm_rows"] / store.num_tokens
        assert found["high_norm_share"] == share


def test_rows_that_count_are_counted_chunk_by_chunk(tmp_path):
    store, known = finished(tmp_path, layout_of("float32", None), planted())
    _, mask = reference(read(store), known)
    length = CHUNK_SEQS * CTX
    counts = [np.sum(mask[i : i + length] == 0) for i in range(0, len(mask), length)]
    assert store.unmasked_rows().tolist() == counts


@pytest.mark.parametrize("is_planted", [False, True])
def test_int8_fvu_is_the_variance_that_is_lost(tmp_path, is_planted):
    x = planted() if is_planted else array_sources.activations(NUM_SEQS)
    layout = layout_of("int8", None)._replace(
        widths={h: r.shape[1] for h, r in x.items()}
    )
    store, _ = finished(tmp_path, layout, x)
    for hook, seen in read(store).items():
        kept = store.mask(0, store.num_tokens) == 0
        given = x[hook].double().numpy()[kept]
        lost = np.square(given - seen[kept]).sum()
        whole = np.square(given - given.mean(0)).sum()
        assert store.statistics(hook)["int8_fvu"] == pytest.approx(lost / whole, 0.05)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_only_int8_tells_what_rounding_adds(tmp_path, dtype):
    store, _ = finished(tmp_path, layout_of(dtype, None), planted())
    assert "int8_fvu" not in store.statistics(HOOK)


def test_split_without_a_row_that_counts_fails_in_one_line(tmp_path):
    with pytest.raises(ValueError) as error:
        finished(
            tmp_path,
            array_sources.layout(),
            array_sources.activations(10),
            mask=lambda tokens: np.full(tokens.shape, MASK_SPECIAL),
        )
    assert str(error.value) == (
        "harvest: every row is masked; name a corpus with more than special tokens"
    )


def test_chunks_without_a_row_that_counts_change_no_statistics(tmp_path):
    def mask(tokens):
        is_special = (tokens // CTX // 3) % 2 == 0  # every other chunk of three
        return np.where(is_special, MASK_SPECIAL, 0).astype(np.uint8)

    x = array_sources.activations(20)
    store, known = finished(tmp_path, array_sources.layout(), x, mask=mask)
    assert 0 in store.unmasked_rows()
    expected, _ = reference(read(store), known)
    for hook in WIDTHS:
        assert store.statistics(hook)["count"] == expected[hook]["count"]
        np.testing.assert_allclose(store.mean(hook), expected[hook]["mean"], rtol=1e-5)


def test_a_row_of_one_hook_counts_for_none_if_it_is_high_in_another(tmp_path):
    x = array_sources.activations(20)
    x[OTHER][42] *= 1000
    store, _ = finished(tmp_path, array_sources.layout(), x)
    assert store.mask(42, 43) == MASK_HIGH_NORM
    assert store.statistics(HOOK)["count"] == 20 * (CTX - 1) - 1
    assert store.statistics(HOOK)["high_norm_rows"] == 1


def test_finishing_again_leaves_the_same(tmp_path):
    place, layout = LocalPlace(tmp_path), layout_of("int8", 2)
    source = array_sources.source(planted(), 5)
    found = array_sources.harvest(place, layout, source, 5)
    before = stores.contents(place)
    assert array_sources.finish(place, layout, source) == found
    assert stores.contents(place) == before


def test_finishing_can_be_stopped_and_begun_again(tmp_path):
    layout, source = layout_of("int8", 2), array_sources.source(planted(), 5)
    whole = array_sources.harvest(LocalPlace(tmp_path / "whole"), layout, source, 5)
    place = LocalPlace(tmp_path / "stopped")
    array_sources.write(place, layout, source, 5)
    before = stores.contents(place)
    for looks in range(0, 4 * NUM_CHUNKS, 5):
        calls = itertools.count()
        with pytest.raises(Interrupted):
            array_sources.finish(
                place, layout, source, asked=lambda c=calls, n=looks: next(c) >= n
            )
        assert stores.contents(place) == before
    assert array_sources.finish(place, layout, source) == whole
