"""SAELens's cache is read as `datasets` reads it, in any order of rows."""

import shutil

import datasets
import numpy as np
import pytest
import torch
from datasets import Array2D, Dataset, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from trilemma import corpus, hub
from trilemma.config.sources import CachedCorpus, Corpus
from trilemma.corpus import Counts, Position
from trilemma.duplicates import DIGEST, Seen
from trilemma.saelens_cache import Cache

HOOKS = {"blocks.0.hook_resid_post": 3, "blocks.1.hook_mlp_out": 5}
CTX, NUM_ROWS = 4, 30
_CORPUS: TypeAdapter[Corpus] = TypeAdapter(Corpus)


def columns(num_rows=NUM_ROWS, dtype=torch.float32, hooks=None):
    generator = torch.Generator().manual_seed(0)
    found = {
        hook: torch.randn(num_rows, CTX, d_in, generator=generator).to(dtype)
        for hook, d_in in (hooks or HOOKS).items()
    }
    ids = torch.arange(num_rows * CTX).view(num_rows, CTX) % 97
    return found | {"token_ids": ids.int()}


def save(folder, values, *, num_shards=3):
    """Save columns as SAELens does; several files, of several batches of rows each."""
    features = Features()
    for name, value in values.items():
        if name == "token_ids":
            features[name] = datasets.Sequence(Value("int32"), length=CTX)
        else:
            dtype = str(value.dtype).removeprefix("torch.")
            features[name] = Array2D(tuple(value.shape[1:]), dtype)
    with hub.quiet():
        Dataset.from_dict(values, features=features).save_to_disk(
            folder, num_shards=num_shards
        )
    return folder


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path / "cache", columns())


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return save(tmp_path_factory.mktemp("cache") / "cache", columns())


def test_a_cache_says_what_it_holds(folder):
    cache = Cache.open(folder)
    assert cache.hooks == tuple(HOOKS)
    assert {hook: cache.d_in(hook) for hook in cache.hooks} == HOOKS
    assert (cache.num_rows, cache.ctx, cache.dtype) == (NUM_ROWS, CTX, "float32")
    assert repr(cache) == (
        f"Cache({str(folder)!r}, 30 rows of 4 tokens, hooks={list(HOOKS)})"
    )


@given(st.lists(st.integers(0, NUM_ROWS - 1), max_size=40))
@settings(deadline=None, max_examples=30)
def test_rows_come_in_the_order_asked_for(shared, rows):
    cache, expected = Cache.open(shared), columns()
    wanted = np.array(rows, np.int64)
    for hook in HOOKS:
        assert torch.equal(cache.activations(hook, wanted), expected[hook][wanted])
    assert np.array_equal(cache.tokens(wanted), expected["token_ids"][wanted])


@pytest.mark.parametrize(
    "span", [slice(None), slice(8, 13), slice(25, 99), slice(30, 40)]
)
def test_a_slice_stops_where_the_cache_does(folder, span):
    cache, expected = Cache.open(folder), columns()
    hook = next(iter(HOOKS))
    assert torch.equal(cache.activations(hook, span), expected[hook][span])
    assert np.array_equal(cache.tokens(span), expected["token_ids"][span])
    assert cache.tokens(span).dtype == np.int32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_activations_keep_their_dtype(tmp_path, dtype):
    cache = Cache.open(save(tmp_path / "cache", columns(dtype=dtype)))
    hook = next(iter(HOOKS))
    found = cache.activations(hook, slice(0, 5))
    assert found.dtype == dtype
    assert torch.equal(found, columns(dtype=dtype)[hook][:5])


def test_files_of_many_batches_are_read_across_them(tmp_path):
    values = columns(2500)
    cache = Cache.open(save(tmp_path / "cache", values, num_shards=1))
    hook = next(iter(HOOKS))
    rows = np.random.default_rng(0).permutation(2500)[:400]
    assert torch.equal(cache.activations(hook, rows), values[hook][rows])


def test_digest_follows_the_content_not_the_place(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    other = columns()
    other["token_ids"][0, 0] += 1
    assert Cache.open(copy).digest() == Cache.open(folder).digest()
    other_folder = save(tmp_path / "other", other)
    assert Cache.open(other_folder).digest() != Cache.open(folder).digest()


def error_of(path):
    with pytest.raises(ValueError) as error:
        Cache.open(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_cache_without_tokens_says_to_cache_again(tmp_path):
    values = columns()
    del values["token_ids"]
    path = save(tmp_path / "cache", values)
    assert error_of(path) == (
        f"corpus.path: {str(path)!r} has no column 'token_ids'; cache the activations "
        "again with a SAELens that keeps the token ids"
    )


def test_a_data_set_without_activations_is_refused(tmp_path):
    path = save(tmp_path / "cache", {"token_ids": columns()["token_ids"]})
    assert error_of(path) == (
        f"corpus.path: {str(path)!r} holds no activations, only token_ids; name a "
        "folder of SAELens's CacheActivationsRunner"
    )


def test_a_folder_that_is_no_cache_is_refused(tmp_path):
    assert error_of(tmp_path) == (
        f"corpus.path: {str(tmp_path)!r} has no state.json; name the folder that "
        "SAELens's CacheActivationsRunner filled"
    )


def test_a_state_that_is_not_json_is_named(folder):
    (folder / "state.json").write_text("{")
    assert error_of(folder) == (
        f"corpus.path: {folder / 'state.json'} is not JSON; copy or cache it again"
    )


def test_a_cache_of_no_files_is_refused(folder):
    (folder / "state.json").write_text('{"_data_files": []}')
    assert error_of(folder) == (
        f"corpus.path: {str(folder)!r} holds no rows; cache some"
    )


@pytest.mark.parametrize("damage", ["cut", "missing", "scrambled"])
def test_a_damaged_file_is_named(folder, damage):
    file = folder / "data-00001-of-00003.arrow"
    whole = file.read_bytes()
    file.write_bytes({"cut": whole[: len(whole) // 2]}.get(damage, b"no arrow here"))
    if damage == "missing":
        file.unlink()
    message = error_of(folder)
    assert message.startswith(f"corpus.path: {file} cannot be read (")
    assert message.endswith("; copy or cache it again")


def test_files_of_other_columns_are_refused(folder, tmp_path):
    other = save(tmp_path / "other", columns(hooks={"blocks.0.hook_resid_post": 7}))
    name = "data-00001-of-00003.arrow"
    shutil.copy(other / name, folder / name)
    assert error_of(folder) == (
        f"corpus.path: {folder / name} has other columns than "
        "data-00000-of-00003.arrow; cache the activations again"
    )


def test_hooks_that_differ_in_dtype_are_refused(tmp_path):
    values = columns()
    values["blocks.1.hook_mlp_out"] = values["blocks.1.hook_mlp_out"].half()
    path = save(tmp_path / "cache", values)
    assert error_of(path) == (
        f"corpus.path: column 'blocks.1.hook_mlp_out' of {str(path)!r} is float16 "
        "[4, 5]; hooks must be float32 or float16, all the same and with as many "
        "tokens in a row"
    )


def test_a_dtype_that_cannot_be_stored_is_refused(tmp_path):
    values = columns(dtype=torch.float64)
    message = error_of(save(tmp_path / "cache", values))
    assert "is float64 [4, 3]; hooks must be float32 or float16" in message


def test_an_unknown_hook_names_the_hooks(folder):
    with pytest.raises(ValueError) as error:
        Cache.open(folder).activations("blocks.7.hook_resid_post", slice(0, 1))
    assert str(error.value) == (
        f"harvest.hooks: 'blocks.7.hook_resid_post' is not in {str(folder)!r}; it "
        f"holds {', '.join(HOOKS)}"
    )


def test_rows_without_tokens_are_refused(tmp_path):
    values = {"blocks.0.hook_resid_post": columns()["blocks.0.hook_resid_post"]}
    features = Features(
        {
            "blocks.0.hook_resid_post": Array2D((CTX, 3), "float32"),
            "token_ids": datasets.Sequence(Value("int32")),
        }
    )
    ragged = [[1] * (1 + i % CTX) for i in range(NUM_ROWS)]
    with hub.quiet():
        Dataset.from_dict(
            values | {"token_ids": ragged}, features=features
        ).save_to_disk(tmp_path / "cache")
    cache = Cache.open(tmp_path / "cache")
    with pytest.raises(ValueError) as error:
        cache.tokens(slice(None))
    file = tmp_path / "cache" / "data-00000-of-00001.arrow"
    assert str(error.value) == (
        f"corpus.path: {file} has rows without values, or of other lengths than [4]; "
        "cache the activations again"
    )


def config(path, **values) -> CachedCorpus:
    settings = {"kind": "saelens_cache", "path": str(path), "eval_fraction": 0.3}
    found = _CORPUS.validate_python(settings | values)
    assert isinstance(found, CachedCorpus)
    return found


def read(source, *, vocab_size=100, context=CTX):
    batches = corpus.read(
        source,
        source.path,
        vocab_size=vocab_size,
        context=context,
        seen=Seen(np.array([], DIGEST)),
        start=Position(),
    )
    found = list(batches)
    documents = [document for batch in found for document in batch.documents]
    return documents, found[-1].position.counts


def test_as_a_corpus_each_row_is_a_document_with_its_number(folder):
    documents, counts = read(config(folder))
    assert [document.number for document in documents] == list(range(NUM_ROWS))
    for document in documents:
        expected = columns()["token_ids"][document.number]
        assert np.array_equal(document.tokens, expected)
    assert {document.split for document in documents} == {"train", "eval"}
    assert counts == Counts(
        num_examples=NUM_ROWS, num_documents=NUM_ROWS, num_tokens=NUM_ROWS * CTX
    )


def test_rows_of_the_same_tokens_are_read_once_and_keep_their_numbers(tmp_path):
    values = columns()
    values["token_ids"][7] = values["token_ids"][2]
    documents, counts = read(config(save(tmp_path / "cache", values)))
    assert 7 not in [document.number for document in documents]
    assert documents[-1].number == NUM_ROWS - 1
    assert (counts.num_duplicates, counts.num_documents) == (1, NUM_ROWS - 1)


def test_reading_a_cache_stops_at_max_tokens(folder):
    documents, counts = read(config(folder, max_tokens=18))
    assert len(documents) == counts.num_examples == 5
    assert counts.num_tokens == 20


def test_a_cached_token_that_the_lm_has_not_is_named(folder):
    with pytest.raises(ValueError) as error:
        read(config(folder), vocab_size=90)
    assert str(error.value) == (
        "corpus.path: found token id 90 in row 22 of the cache, the LM's vocabulary is "
        "90; name the LM that it was made with"
    )


def test_cached_rows_longer_than_the_lm_reads_are_refused(folder):
    with pytest.raises(ValueError) as error:
        read(config(folder), context=3)
    assert str(error.value) == (
        "corpus.path: found rows of 4 tokens; the LM reads at most 3 tokens"
    )


def test_a_cache_stands_for_its_content_in_a_plan(folder):
    source = config(folder)
    assert corpus.source_digest(source) == Cache.open(folder).digest()
    assert corpus.row_length(source) == CTX
