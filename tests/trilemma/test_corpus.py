"""From text to packed rows of tokens in two splits."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from huggingface_hub import constants
from pydantic import TypeAdapter

from trilemma import corpus, embedded
from trilemma.config.sources import Corpus
from trilemma.lm import load_tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_CORPUS: TypeAdapter[Corpus] = TypeAdapter(Corpus)


def config(**values) -> Corpus:
    return _CORPUS.validate_python({"ctx": 16, "eval_fraction": 0.3} | values)


def sentences(count: int) -> list[str]:
    return [f"Text number {i} tells of {i * i} things.\n" * 3 for i in range(count)]


@pytest.fixture
def lines(tmp_path) -> Path:
    path = tmp_path / "texts.jsonl"
    rows = [json.dumps({"text": text, "n": 1}) for text in sentences(60)]
    path.write_text("\n".join(rows))
    return path


def build(source: Corpus, folder: Path, *, vocab_size: int = 400) -> corpus.CorpusRows:
    return corpus.build(source, folder, vocab_size=vocab_size, context=64)


def documents_of(packed: corpus.Packed) -> dict[int, list[tuple[int, ...]]]:
    """Return the tokens of each document in each row that holds some of it."""
    found: dict[int, list[tuple[int, ...]]] = {}
    for row, ids in zip(packed.tokens, packed.document, strict=True):
        for document in np.unique(ids):
            found.setdefault(int(document), []).append(tuple(row[ids == document]))
    return found


def test_rows_hold_each_document_and_its_end(trained, lines):
    rows = build(config(kind="jsonl", paths=[str(lines)]), trained.folder)
    tokenizer = load_tokenizer(trained.folder)
    read = documents_of(rows.train) | documents_of(rows.eval)
    for index, text in enumerate(sentences(60)):
        expected = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        pieces = sum(map(len, read[index])) if index in read else 0
        assert pieces == len(expected) or index in _cut(rows)


def _cut(rows: corpus.CorpusRows) -> set[int]:
    """Return the last document of each split, which the ragged tail may have cut."""
    last = {int(rows.train.document.max()), int(rows.eval.document.max())}
    return last | {max(last) + 1}


def test_a_row_reads_on_where_the_last_document_ended(trained, lines):
    rows = build(config(kind="jsonl", paths=[str(lines)]), trained.folder)
    tokenizer = load_tokenizer(trained.folder)
    text = tokenizer.decode(rows.train.tokens[0])
    assert all(piece in "".join(_texts_with_ends()) for piece in text.split("\n")[1:-1])


def _texts_with_ends() -> list[str]:
    return [f"{text}<|endoftext|>" for text in sentences(60)]


def test_types_and_shapes_are_what_the_store_keeps(trained, lines):
    rows = build(config(kind="jsonl", paths=[str(lines)]), trained.folder)
    for packed in (rows.train, rows.eval):
        assert packed.tokens.dtype == np.int32
        assert packed.document.dtype == np.int64
        assert packed.tokens.shape == packed.document.shape
        assert packed.num_documents == len(np.unique(packed.document))
    assert rows.info["num_documents"] == 60
    kept = rows.train.tokens.size + rows.eval.tokens.size
    assert rows.info["num_tokens"] - rows.info["num_dropped_tokens"] == kept


def test_splits_share_no_document(trained, lines):
    rows = build(config(kind="jsonl", paths=[str(lines)]), trained.folder)
    assert not set(documents_of(rows.train)) & set(documents_of(rows.eval))


def test_a_documents_split_does_not_depend_on_the_others(trained, tmp_path):
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    texts = sentences(60)
    whole.write_text("\n".join(json.dumps({"text": t}) for t in texts))
    part.write_text("\n".join(json.dumps({"text": t}) for t in texts[::-1][:40]))
    of_whole = build(config(kind="jsonl", paths=[str(whole)]), trained.folder)
    of_part = build(config(kind="jsonl", paths=[str(part)]), trained.folder)
    in_whole = {texts[i] for i in documents_of(of_whole.eval)}
    in_part = {texts[::-1][i] for i in documents_of(of_part.eval)}
    assert in_part <= in_whole | {texts[i] for i in _cut(of_whole) if i < len(texts)}


def test_the_same_settings_give_the_same_rows(trained, lines):
    source = config(kind="jsonl", paths=[str(lines)])
    first, second = (build(source, trained.folder) for _ in range(2))
    assert np.array_equal(first.train.tokens, second.train.tokens)
    assert np.array_equal(first.eval.document, second.eval.document)


def test_another_seed_gives_the_same_rows_in_another_order(trained, lines):
    first, second = (
        build(config(kind="jsonl", paths=[str(lines)], seed=seed), trained.folder)
        for seed in (0, 1)
    )
    assert not np.array_equal(first.train.tokens, second.train.tokens)
    order = [np.lexsort(rows.train.tokens.T) for rows in (first, second)]
    assert np.array_equal(first.train.tokens[order[0]], second.train.tokens[order[1]])


def test_reading_stops_at_max_tokens(trained):
    source = config(kind="embedded", max_tokens=40_000)
    rows = build(source, trained.folder)
    assert 40_000 <= rows.info["num_tokens"] < 400_000
    assert rows.info["num_documents"] < len(list(embedded.documents()))


def test_a_text_file_is_one_document(trained, tmp_path):
    for index, text in enumerate(sentences(20)):
        (tmp_path / f"{index:02d}.txt").write_text(text)
    source = config(kind="text", paths=[str(tmp_path / "*.txt")])
    assert build(source, trained.folder).info["num_documents"] == 20


def test_parquet_reads_like_json_lines(trained, tmp_path, lines):
    path = tmp_path / "texts.parquet"
    with corpus.hub.quiet():
        datasets.Dataset.from_dict({"body": sentences(60)}).to_parquet(str(path))
    source = config(kind="parquet", paths=[str(path)], column="body")
    expected = build(config(kind="jsonl", paths=[str(lines)]), trained.folder)
    found = build(source, trained.folder)
    assert np.array_equal(found.train.tokens, expected.train.tokens)


def test_blank_documents_are_skipped(trained, tmp_path, lines):
    padded = tmp_path / "padded.jsonl"
    blank = "\n".join(json.dumps({"text": text, "n": 1}) for text in ("", " \n", None))
    padded.write_text(f"{blank}\n{lines.read_text()}")
    rows = build(config(kind="jsonl", paths=[str(padded)]), trained.folder)
    assert rows.info["num_documents"] == 60


def test_source_digest_follows_the_content(lines):
    source = config(kind="jsonl", paths=[str(lines)])
    before = corpus.source_digest(source)
    assert corpus.source_digest(source) == before
    lines.write_text(lines.read_text() + "\n")
    assert corpus.source_digest(source) != before


def test_source_digest_of_the_embedded_text_is_that_of_the_text():
    assert corpus.source_digest(config(kind="embedded")) == embedded.text_digest()


def test_source_digest_of_a_pinned_data_set_is_its_commit():
    source = config(kind="hub", id="some/texts", revision=COMMIT)
    assert corpus.source_digest(source) == COMMIT


def test_a_data_set_that_cannot_be_asked_for_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"^corpus.id: 'some/texts' cannot be"):
        corpus.source_digest(config(kind="hub", id="some/texts"))


def test_files_that_do_not_exist_are_named(trained, tmp_path):
    source = config(kind="text", paths=[str(tmp_path / "*.txt")])
    with pytest.raises(ValueError, match=r"^corpus.paths: no file matches '.*\*.txt'"):
        build(source, trained.folder)


def test_an_unknown_column_names_the_columns(trained, lines):
    source = config(kind="jsonl", paths=[str(lines)], column="body")
    with pytest.raises(ValueError) as error:
        build(source, trained.folder)
    assert str(error.value) == (
        "corpus.column: no column 'body'; the columns are text, n"
    )


def test_a_column_without_text_is_refused(trained, lines):
    source = config(kind="jsonl", paths=[str(lines)], column="n")
    with pytest.raises(ValueError, match=r"^corpus.column: 'n' holds int; name a"):
        build(source, trained.folder)


def test_an_empty_corpus_is_refused(trained, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    source = config(kind="text", paths=[str(tmp_path / "empty.txt")])
    with pytest.raises(ValueError, match=r"^corpus: no text in .*empty.txt; name a"):
        build(source, trained.folder)


def test_a_split_shorter_than_a_row_is_refused(trained, tmp_path):
    (tmp_path / "short.txt").write_text("Few words.")
    source = config(kind="text", paths=[str(tmp_path / "short.txt")])
    with pytest.raises(ValueError, match=r"fewer than one row of ctx 16; give"):
        build(source, trained.folder)


def test_a_tokenizer_with_too_many_ids_is_refused(trained, lines):
    source = config(kind="jsonl", paths=[str(lines)])
    with pytest.raises(ValueError) as error:
        build(source, trained.folder, vocab_size=399)
    assert str(error.value) == (
        "corpus: the tokenizer has 400 ids but the LM's vocabulary is 399; use the "
        "tokenizer that belongs to the LM"
    )


def test_files_of_another_kind_are_refused(trained, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    source = config(kind="text", paths=[str(tmp_path / "bad.txt")])
    with pytest.raises(ValueError, match=r"bad.txt cannot be read as text"):
        build(source, trained.folder)


def test_a_text_that_comes_twice_is_read_once(trained, lines, tmp_path):
    twice = tmp_path / "twice.jsonl"
    twice.write_text(lines.read_text() * 2)
    once = build(config(kind="jsonl", paths=[str(lines)]), trained.folder)
    found = build(config(kind="jsonl", paths=[str(twice)]), trained.folder)
    assert found.info == once.info


def test_rows_longer_than_the_lm_reads_are_refused(trained, lines):
    source = config(kind="jsonl", paths=[str(lines)], ctx=65)
    with pytest.raises(ValueError, match=r"corpus\.ctx: found 65; the LM"):
        build(source, trained.folder)
