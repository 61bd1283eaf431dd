"""What was recorded comes back; what came after the record is gone."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.token_log import TokenLog
from storage.token_rows import DOCUMENT, TOKENS

SPLITS = ("train", "eval")
DIGEST = np.dtype("S4")

documents = st.lists(
    st.tuples(st.sampled_from(SPLITS), st.integers(1, 6)), min_size=1, max_size=20
)


def append(log, found, first=0):
    for number, (split, length) in enumerate(found, start=first):
        tokens = np.full(length, number + 100, np.int32)
        log.append(split, tokens, number, b"%04d" % number, label_of(number))


def label_of(number):
    return None if number % 3 == 0 else number % 5


def read(log, split):
    tokens = np.fromfile(log.raw(split, TOKENS), np.int32).tolist()
    document = np.fromfile(log.raw(split, DOCUMENT), np.int64).tolist()
    return tokens, document


def expected(found, split):
    numbers = [
        n for n, (name, size) in enumerate(found) for _ in range(size) if name == split
    ]
    return [n + 100 for n in numbers], numbers


@given(documents, st.data())
@settings(deadline=None)
def test_a_log_opened_again_holds_what_was_recorded(found, data):
    kept = data.draw(st.integers(0, len(found)))
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where) / "log"
        with TokenLog(folder, splits=SPLITS) as log:
            append(log, found[:kept])
            log.record({"kept": kept})
            append(log, found[kept:], first=kept)
        with TokenLog(folder, splits=SPLITS) as log:
            assert log.state == {"kept": kept}
            assert log.digests(DIGEST).tolist() == [b"%04d" % n for n in range(kept)]
            for split in SPLITS:
                assert read(log, split) == expected(found[:kept], split)
            append(log, found[kept:], first=kept)
            log.record({"kept": len(found)})
            assert log.labels().tolist() == [
                -1 if label_of(n) is None else label_of(n) for n in range(len(found))
            ]
            for split in SPLITS:
                assert read(log, split) == expected(found, split)
                numbers = expected(found, split)[1]
                assert log.splits[split].num_tokens == len(numbers)
                assert log.splits[split].num_documents == len(set(numbers))
                for count in range(len(numbers) + 1):
                    belong = len(set(numbers[:count]))
                    assert log.num_documents_in(split, count) == belong


kills = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=3
)


@given(documents, kills)
@settings(deadline=None)
def test_killed_again_and_again_a_log_holds_what_it_would_without(found, kills):
    with tempfile.TemporaryDirectory() as where:
        folder, quiet = Path(where) / "log", Path(where) / "quiet"
        with TokenLog(quiet, splits=SPLITS) as log:
            append(log, found)
            log.record(len(found))
        kept = 0
        for recorded, lost in kills:
            with TokenLog(folder, splits=SPLITS) as log:
                assert (log.state or 0) == kept
                append(log, found[kept : kept + recorded], first=kept)
                kept = min(kept + recorded, len(found))
                log.record(kept)
                append(log, found[kept : kept + lost], first=kept)
        with TokenLog(folder, splits=SPLITS) as log:
            assert log.state == kept
            append(log, found[kept:], first=kept)
            log.record(len(found))
        # With the record, which counts bytes and documents.
        assert contents(folder) == contents(quiet)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_log_without_a_record_begins_empty(tmp_path):
    with TokenLog(tmp_path / "log", splits=SPLITS) as log:
        append(log, [("train", 3)])
    with TokenLog(tmp_path / "log", splits=SPLITS) as log:
        assert log.state is None
        assert read(log, "train") == ([], [])


@pytest.mark.parametrize("name", ["train_tokens", "eval_document", "digests", "labels"])
def test_a_file_shorter_than_its_record_begins_the_log_anew(tmp_path, name):
    with TokenLog(tmp_path / "log", splits=SPLITS) as log:
        append(log, [("train", 3), ("eval", 4)])
        log.record("all")
    with (tmp_path / "log" / name).open("r+b") as file:
        file.truncate(1)
    with TokenLog(tmp_path / "log", splits=SPLITS) as log:
        assert log.state is None
        assert read(log, "train") == ([], [])


def test_a_record_of_other_files_begins_the_log_anew(tmp_path):
    with TokenLog(tmp_path / "log", splits=SPLITS) as log:
        append(log, [("train", 3), ("eval", 4)])
        log.record("all")
    path = tmp_path / "log" / "record.json"
    record = json.loads(path.read_text())
    del record["bytes"]["labels"]
    path.write_text(json.dumps(record))
    with TokenLog(tmp_path / "log", splits=SPLITS) as log:
        assert log.state is None
        assert log.labels().tolist() == []


def test_the_record_is_small_json(tmp_path):
    with TokenLog(tmp_path / "log", splits=SPLITS) as log:
        append(log, [("train", 3)])
        log.record({"at": 1})
    record = json.loads((tmp_path / "log" / "record.json").read_text())
    assert record["bytes"]["train_tokens"] == 12
    assert record["state"] == {"at": 1}
