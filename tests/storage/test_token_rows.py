"""Rows of tokens in files are those of plain numpy, whatever was asked for."""

import pickle
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import token_rows
from storage.token_rows import DOCUMENT, DTYPES, TOKENS, Rows

BLOCK_BYTES = 16 << 20


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, 1 << 20, (37, 5), dtype=np.int32)
    np.save(token_rows.path(tmp_path, "train", TOKENS), tokens)
    np.save(token_rows.path(tmp_path, "train", DOCUMENT), tokens.astype(np.int64) << 20)
    return tmp_path


@pytest.mark.parametrize(
    "span", [slice(None), slice(3, 9), slice(30, 99), slice(9, 3), slice(-2, None)]
)
def test_rows_are_those_that_were_saved(folder, span):
    rows = Rows(folder, "train")
    tokens = np.load(token_rows.path(folder, "train", TOKENS))
    document = np.load(token_rows.path(folder, "train", DOCUMENT))
    assert (rows.num_seqs, rows.ctx) == tokens.shape
    assert np.array_equal(rows.tokens(span), tokens[span])
    assert np.array_equal(rows.document(span), document[span])


def test_rows_have_the_types_and_shapes_of_the_store(folder):
    rows = Rows(folder, "train")
    assert rows.tokens(slice(0, 4)).dtype == np.int32
    assert rows.document(slice(0, 4)).dtype == np.int64
    assert rows.tokens(slice(4, 4)).shape == (0, 5)


def test_rows_travel_to_other_processes(folder):
    rows = pickle.loads(pickle.dumps(Rows(folder, "train")))
    assert rows.tokens(slice(0, 2)).shape == (2, 5)
    assert repr(rows) == "Rows(37 rows of 5 tokens)"


def write(target, raw, array, order, report=lambda num_bytes: None):
    array.tofile(raw)
    token_rows.write_ordered(
        target,
        raw,
        dtype=array.dtype,
        ctx=array.shape[1],
        order=order,
        report=report,
    )


@given(st.integers(1, 200), st.integers(1, 9), st.sampled_from([TOKENS, DOCUMENT]))
@settings(deadline=None)
def test_ordered_rows_have_the_bytes_of_numpys_own_file(num_seqs, ctx, name):
    generator = np.random.default_rng(num_seqs)
    array = generator.integers(0, 1 << 30, (num_seqs, ctx)).astype(DTYPES[name])
    order = generator.permutation(num_seqs)
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        write(folder / "found.npy", folder / "raw", array, order)
        np.save(folder / "expected.npy", array[order])
        found, expected = folder / "found.npy", folder / "expected.npy"
        assert found.read_bytes() == expected.read_bytes()


def test_writing_holds_one_block_however_long_the_file(tmp_path):
    array = np.zeros((6 * BLOCK_BYTES // 4096, 1024), np.int32)
    order = np.arange(len(array))[::-1].copy()
    array.tofile(tmp_path / "raw")
    del array
    tracemalloc.start()
    token_rows.write_ordered(
        tmp_path / "rows.npy",
        tmp_path / "raw",
        dtype=np.dtype(np.int32),
        ctx=1024,
        order=order,
        report=lambda num_bytes: None,
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * BLOCK_BYTES


def test_what_the_report_raises_ends_the_writing(tmp_path):
    def report(num_bytes):
        raise KeyboardInterrupt

    array = np.zeros((4, 4), np.int32)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "rows.npy", tmp_path / "raw", array, np.arange(4), report)
