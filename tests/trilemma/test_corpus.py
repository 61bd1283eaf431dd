"""From text to tokens of documents in two splits, and the order of their rows."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tokenizers
from pydantic import TypeAdapter
from tokenizers import models, pre_tokenizers
from transformers import GPTNeoXConfig, PreTrainedTokenizerFast

from trilemma import corpus, embedded
from trilemma.config.sources import Corpus
from trilemma.corpus import Counts, Position
from trilemma.duplicates import DIGEST, Seen
from trilemma.lm import load_tokenizer

_CORPUS: TypeAdapter[Corpus] = TypeAdapter(Corpus)


class Read(NamedTuple):
    """All that a corpus gave."""

    documents: list[corpus.Document]
    counts: Counts
    labels: tuple[str, ...]


class Packed(NamedTuple):
    tokens: np.ndarray
    document: np.ndarray


class Packing(NamedTuple):
    orders: dict[str, np.ndarray]
    rows: dict[str, Packed]


def config(**values) -> Corpus:
    return _CORPUS.validate_python({"ctx": 16, "eval_fraction": 0.3} | values)


def sentences(count: int) -> list[str]:
    return [f"Text number {i} tells of {i * i} things.\n" * 3 for i in range(count)]


@pytest.fixture
def lines(tmp_path) -> Path:
    path = tmp_path / "texts.jsonl"
    write(path, sentences(60))
    return path


def write(path: Path, texts: list[str | None]) -> Path:
    rows = [json.dumps({"text": text, "n": 1}) for text in texts]
    path.write_text("\n".join(rows))
    return path


def read(source: Corpus, folder: Path, *, vocab_size: int = 400) -> Read:
    batches = list(
        corpus.read(
            source,
            folder,
            vocab_size=vocab_size,
            context=64,
            seen=Seen(np.array([], DIGEST)),
            start=Position(),
        )
    )
    assert [batch.position.is_end for batch in batches[:-1]] == [False] * (
        len(batches) - 1
    )
    assert batches[-1].position.is_end
    documents = [document for batch in batches for document in batch.documents]
    position = batches[-1].position
    return Read(documents, position.counts, tuple(position.labels))


def read_lines(path: Path, folder: Path, **values) -> Read:
    return read(config(kind="jsonl", paths=[str(path)], **values), folder)


def pack(source: Corpus, found: Read) -> Packing:
    """Return the shuffled rows of each split, all of them in memory."""
    joined = {}
    for split in ("train", "eval"):
        mine = [d for d in found.documents if d.split == split]
        numbers = [np.full(len(d.tokens), d.number) for d in mine]
        joined[split] = (
            np.concatenate([d.tokens for d in mine]),
            np.concatenate(numbers),
        )
    orders = corpus.row_orders(source, {k: len(v[0]) for k, v in joined.items()})
    rows = {}
    for split, order in orders.items():
        kept = len(order) * source.ctx
        cut = [a[:kept].reshape(len(order), source.ctx) for a in joined[split]]
        rows[split] = Packed(cut[0][order], cut[1][order])
    return Packing(orders, rows)


def byte_tokenizer(folder: Path, **special: str) -> Path:
    """Save a tokenizer of single bytes with these special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(
        models.BPE({letter: i for i, letter in enumerate(alphabet)}, [])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)
    GPTNeoXConfig(vocab_size=260, max_position_embeddings=64).save_pretrained(folder)
    return folder


def test_a_document_is_its_tokens_and_an_end(trained, lines):
    tokenizer = load_tokenizer(trained.folder)
    documents = read_lines(lines, trained.folder).documents
    for index, (text, found) in enumerate(zip(sentences(60), documents, strict=True)):
        expected = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        assert found.tokens.tolist() == expected
        assert found.tokens.dtype == np.int32
        assert found.number == index


def test_a_tokenizer_that_begins_no_text_is_fine(tmp_path, lines):
    folder = byte_tokenizer(tmp_path / "tokenizer", eos_token="<end>")
    documents = read_lines(lines, folder).documents
    text = sentences(60)[0]
    assert load_tokenizer(folder).bos_token is None
    assert len(documents[0].tokens) == len(text) + 1
    assert documents[0].tokens[-1] == 256


def test_a_tokenizer_that_separates_ends_a_text_with_its_separator(tmp_path, lines):
    folder = byte_tokenizer(tmp_path / "tokenizer", sep_token="<sep>")
    assert {d.tokens[-1] for d in read_lines(lines, folder).documents} == {256}


def test_a_tokenizer_that_ends_no_text_is_refused(tmp_path, lines):
    folder = byte_tokenizer(tmp_path / "tokenizer", unk_token="<unknown>")
    with pytest.raises(ValueError) as error:
        read_lines(lines, folder)
    assert str(error.value) == (
        "corpus: the tokenizer has no token that ends a text; set its eos_token"
    )


def test_a_document_longer_than_a_row_goes_on_in_the_next(trained, tmp_path):
    texts = ["word " * 500 + str(i) for i in range(12)]
    source = config(kind="jsonl", paths=[str(write(tmp_path / "long", texts))], seed=5)
    found = read(source, trained.folder)
    orders, packed = pack(source, found)
    for split, (tokens, document) in packed.items():
        whole = np.concatenate([d.tokens for d in found.documents if d.split == split])
        read_on = np.argsort(orders[split])
        assert np.array_equal(tokens[read_on].ravel(), whole[: tokens.size])
        assert (np.diff(document[read_on].ravel()) >= 0).all()
        assert len(whole) - tokens.size < source.ctx


def test_splits_share_no_document(trained, lines):
    documents = read_lines(lines, trained.folder).documents
    assert {d.split for d in documents} == {"train", "eval"}
    assert len({d.number for d in documents}) == 60


def test_which_split_hangs_on_a_salted_hash_of_the_text(trained, lines):
    documents = read_lines(lines, trained.folder).documents
    for text, found in zip(sentences(60), documents, strict=True):
        digest = hashlib.sha256(f"corpus/split\n{text}".encode()).digest()
        is_eval = int.from_bytes(digest[:8], "big") < 0.3 * 2**64
        assert found.split == ("eval" if is_eval else "train")


def test_a_documents_split_does_not_depend_on_the_others(trained, tmp_path):
    texts = sentences(60)
    whole = read_lines(write(tmp_path / "whole", texts), trained.folder)
    part = read_lines(write(tmp_path / "part", texts[::-1][:40]), trained.folder)
    of_whole = {texts[d.number]: d.split for d in whole.documents}
    of_part = {texts[::-1][d.number]: d.split for d in part.documents}
    assert of_part == {text: of_whole[text] for text in of_part}


def test_another_seed_gives_the_same_rows_in_another_order(trained, lines):
    first, second = (
        config(kind="jsonl", paths=[str(lines)], seed=seed) for seed in (0, 1)
    )
    rows = [
        pack(c, read(c, trained.folder)).rows["train"].tokens for c in (first, second)
    ]
    assert not np.array_equal(rows[0], rows[1])
    orders = [np.lexsort(found.T) for found in rows]
    assert np.array_equal(rows[0][orders[0]], rows[1][orders[1]])


def test_reading_stops_at_max_tokens(trained):
    found = read(config(kind="embedded", max_tokens=40_000), trained.folder)
    assert 40_000 <= found.counts.num_tokens < 400_000
    before = found.counts.num_tokens - len(found.documents[-1].tokens)
    assert before < 40_000
    assert found.counts.num_documents < len(list(embedded.documents()))
    assert found.counts.num_examples == found.counts.num_documents


def test_a_text_file_is_one_document(trained, tmp_path):
    for index, text in enumerate(sentences(20)):
        (tmp_path / f"{index:02d}.txt").write_text(text)
    source = config(kind="text", paths=[str(tmp_path / "*.txt")])
    assert read(source, trained.folder).counts.num_documents == 20


def test_what_is_read_and_what_is_skipped_is_counted(trained, tmp_path):
    texts = ["", *sentences(60), " \n", None, *sentences(5), ""]
    found = read_lines(write(tmp_path / "texts", texts), trained.folder)
    assert found.counts == Counts(
        num_examples=69,
        num_blank=4,
        num_duplicates=5,
        num_documents=60,
        num_characters=sum(map(len, sentences(60))),
        num_tokens=sum(len(d.tokens) for d in found.documents),
    )


def test_skipped_texts_change_no_document(trained, tmp_path, lines):
    texts = ["", *sentences(60), None, *sentences(60)]
    found = read_lines(write(tmp_path / "padded", texts), trained.folder).documents
    expected = read_lines(lines, trained.folder).documents
    for ours, theirs in zip(found, expected, strict=True):
        assert np.array_equal(ours.tokens, theirs.tokens)
        assert ours.number == theirs.number


def labelled(path: Path, pairs: list[tuple[str, str | None]]) -> Path:
    rows = [json.dumps({"text": text, "lang": label}) for text, label in pairs]
    path.write_text("\n".join(rows))
    return path


def test_labels_are_numbered_as_they_come(trained, tmp_path):
    of_text = ["de", None, "en", "de", "fr", "en"] * 10
    pairs = list(zip(sentences(60), of_text, strict=True))
    # The copy is left out, and so is a label that only a blank text has.
    pairs += [(" ", "blank"), (sentences(1)[0], "copy")]
    found = read_lines(
        labelled(tmp_path / "texts", pairs), trained.folder, label_column="lang"
    )
    assert found.labels == ("de", "en", "fr")
    expected = [
        None if label is None else found.labels.index(label) for label in of_text
    ]
    assert [document.label for document in found.documents] == expected


def test_without_a_column_of_labels_no_document_has_one(trained, lines):
    found = read_lines(lines, trained.folder)
    assert {document.label for document in found.documents} == {None}
    assert found.labels == ()


def test_labels_beyond_max_tokens_are_unknown(trained, tmp_path):
    pairs = [(text, str(i)) for i, text in enumerate(sentences(60))]
    path = labelled(tmp_path / "texts", pairs)
    found = read_lines(path, trained.folder, label_column="lang", max_tokens=200)
    assert found.labels == tuple(str(i) for i in range(len(found.documents)))
    assert len(found.labels) < 60


def test_too_many_labels_are_refused(trained, tmp_path):
    pairs = [(f"text {i}", f"label {i % 1000}") for i in range(1001)]
    read_lines(labelled(tmp_path / "most", pairs), trained.folder, label_column="lang")
    pairs.append(("one more", "another label"))
    with pytest.raises(ValueError) as error:
        read_lines(
            labelled(tmp_path / "more", pairs), trained.folder, label_column="lang"
        )
    assert str(error.value) == (
        "corpus.label_column: 'lang' holds more than 1,000 different labels; name a "
        "column of fewer"
    )


def test_a_corpus_that_was_read_to_its_end_gives_no_more(trained, lines):
    batches = corpus.read(
        config(kind="jsonl", paths=[str(lines)]),
        trained.folder,
        vocab_size=400,
        context=64,
        seen=Seen(np.array([], DIGEST)),
        start=Position(is_end=True),
    )
    assert list(batches) == []


def test_an_empty_corpus_is_refused(trained, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    source = config(kind="text", paths=[str(tmp_path / "empty.txt")])
    with pytest.raises(ValueError, match=r"^corpus: no text in .*empty.txt; name a"):
        read(source, trained.folder)


def test_a_split_shorter_than_a_row_is_refused():
    with pytest.raises(ValueError) as error:
        corpus.row_orders(config(kind="embedded"), {"train": 160, "eval": 15})
    assert str(error.value) == (
        "corpus: the eval split has 15 tokens, fewer than one row of ctx 16; give more "
        "text or change corpus.eval_fraction"
    )


def test_a_tokenizer_with_too_many_ids_is_refused(trained, lines):
    source = config(kind="jsonl", paths=[str(lines)])
    with pytest.raises(ValueError) as error:
        read(source, trained.folder, vocab_size=399)
    assert str(error.value) == (
        "corpus: the tokenizer has 400 ids but the LM's vocabulary is 399; use the "
        "tokenizer that belongs to the LM"
    )


def test_rows_longer_than_the_lm_reads_are_refused(trained, lines):
    with pytest.raises(ValueError) as error:
        read_lines(lines, trained.folder, ctx=65)
    assert str(error.value) == ("corpus.ctx: found 65; the LM reads at most 64 tokens")
