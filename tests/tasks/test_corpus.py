"""The corpus on disk: the bytes of a plain packing, however often it was killed."""

import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import tokenizers
import torch
from datasets import Array2D, Dataset, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from tokenizers import models, pre_tokenizers
from transformers import GPTNeoXConfig, PreTrainedTokenizerFast

from storage import token_rows
from storage.token_rows import Rows
from tasks import corpus
from tasks.interruption import Interrupted, watched
from trilemma import corpus as library
from trilemma import hub
from trilemma.config.sources import Corpus

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CTX = 16
NUM_TEXTS = 300
NEVER = float("inf")
KINDS = ("text", "jsonl", "parquet", "hub", "shuffled", "labelled", "saelens_cache")
FILES = [f"{split}_{name}.npy" for split in corpus.SPLITS for name in token_rows.DTYPES]
_CORPUS: TypeAdapter[Corpus] = TypeAdapter(Corpus)


class KilledError(Exception):
    """Stands for a kill: nothing more is recorded."""


def texts():
    """Return texts with copies, blank ones and long ones among them."""
    found = [f"Text {i} tells of {i * i} things. " * (1 + i % 3) for i in range(260)]
    found[40] = "a long one " * 90
    return [*found[:50], "", *found[50:], " \n", *found[:37], "the last one"]


def label_of(text):
    """Return a label that no text has before some, or none."""
    return len(text) // 10 if len(text) % 3 else None


def lines(part):
    examples = [{"text": text, "length": label_of(text)} for text in part]
    return "\n".join(map(json.dumps, examples))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a tokenizer of bytes, and the texts in files of kinds."""
    folder = tmp_path_factory.mktemp("corpus")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(
        models.BPE({letter: i for i, letter in enumerate(alphabet)}, [])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    tokenizer.save_pretrained(folder / "lm")
    GPTNeoXConfig(vocab_size=257, max_position_embeddings=64).save_pretrained(
        folder / "lm"
    )
    for kind in ("text", "jsonl", "parquet"):
        (folder / kind).mkdir()
    for index, text in enumerate(texts()):
        (folder / "text" / f"{index:03d}").write_text(text)
    for index in range(3):
        part = texts()[index * 101 : (index + 1) * 101]
        (folder / "jsonl" / f"train-{index}.jsonl").write_text(lines(part))
        with hub.quiet():
            Dataset.from_dict({"text": part}).to_parquet(
                folder / "parquet" / f"train-{index}.parquet", batch_size=40
            )
    save_cache(folder / "saelens_cache")
    return folder


def save_cache(folder, num_rows=400):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(257, (num_rows, CTX), generator=generator)
    ids[11] = ids[5]
    features = Features(
        {
            "hook_embed": Array2D((CTX, 2), "float32"),
            "token_ids": datasets.Sequence(Value("int32"), length=CTX),
        }
    )
    columns = {"hook_embed": torch.randn(num_rows, CTX, 2), "token_ids": ids.int()}
    with hub.quiet():
        Dataset.from_dict(columns, features=features).save_to_disk(folder, num_shards=3)


@pytest.fixture(scope="module")
def config(folder):
    """Return a function: the settings of a corpus of each kind."""

    def settings_of(kind, **values):
        source = {
            "hub": {"id": str(folder / "jsonl"), "revision": COMMIT},
            "saelens_cache": {"path": str(folder / "saelens_cache")},
        }
        source["shuffled"] = source["hub"] | {"shuffle_buffer": 20}
        if kind == "labelled":
            kind, values = "jsonl", values | {"label_column": "length"}
        source = source.get(kind, {"paths": [str(folder / kind / "*")]})
        packing = {"eval_fraction": 0.3, "seed": 3}
        if kind != "saelens_cache":
            packing["ctx"] = CTX
        kind = "hub" if kind == "shuffled" else kind
        return _CORPUS.validate_python({"kind": kind} | source | packing | values)

    return settings_of


@pytest.fixture(scope="module")
def build(folder):
    """Return a function that builds a corpus in a folder, as far as it gets."""

    def built(config, target, *, record_seconds=NEVER, asked=None, report=None):
        return corpus.build(
            config,
            folder / "lm",
            target,
            source=library.source_digest(config),
            record_seconds=record_seconds,
            asked=asked or (lambda: False),
            report=report or (lambda counts: None),
        )

    return built


def found_in(target):
    """Return the hash of each file, which is short to print where it differs."""
    found = {name: digest((target / name).read_bytes()) for name in FILES}
    labels = target / corpus.LABELS
    return found | (
        {labels.name: digest(labels.read_bytes())} if labels.exists() else {}
    )


def digest(content):
    return hashlib.sha256(content).hexdigest()


def reference(tokenize, max_tokens):
    """Return the .npy files of the texts, all of them held and packed at once."""
    seen, documents, num_tokens = set(), [], 0
    for text in texts():
        if not text.strip() or text in seen:
            continue
        seen.add(text)
        documents.append((text, tokenize(text)))
        num_tokens += len(documents[-1][1])
        if max_tokens is not None and num_tokens >= max_tokens:
            break
    files = {}
    generator = torch.Generator().manual_seed(3)
    for split in corpus.SPLITS:
        mine = [
            (number, ids)
            for number, (text, ids) in enumerate(documents)
            if library._split(f"corpus/split\n{text}".encode(), 0.3) == split
        ]
        tokens = np.concatenate([np.array(ids, np.int32) for _, ids in mine])
        document = np.concatenate([np.full(len(ids), n) for n, ids in mine])
        num_seqs = len(tokens) // CTX
        order = torch.randperm(num_seqs, generator=generator).numpy()
        for name, values in (("tokens", tokens), ("document", document)):
            file = io.BytesIO()
            np.save(file, values[: num_seqs * CTX].reshape(num_seqs, CTX)[order])
            files[f"{split}_{name}.npy"] = digest(file.getvalue())
    return files


@pytest.mark.parametrize("kind", ["text", "jsonl", "parquet", "hub"])
@pytest.mark.parametrize("max_tokens", [None, 3000])
def test_the_bytes_are_those_of_packing_it_all_in_memory(
    build, config, folder, tmp_path, kind, max_tokens
):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "lm")
    build(config(kind, max_tokens=max_tokens), tmp_path)
    assert found_in(tmp_path) == reference(
        lambda text: [*tokenizer(text)["input_ids"], 256], max_tokens
    )


@pytest.fixture(scope="module")
def quiet(build, config, tmp_path_factory):
    """Return the files and the facts of each kind, built without any kill."""
    found = {}
    for kind in KINDS:
        target = tmp_path_factory.mktemp("quiet")
        info = build(config(kind), target)
        found[kind] = (found_in(target), info)
    return found


kills = st.lists(
    st.tuples(st.integers(0, 14), st.sampled_from([0, NEVER])), min_size=1, max_size=3
)


@pytest.mark.parametrize("kind", KINDS)
@given(kills=kills)
@settings(deadline=None, max_examples=8)
def test_killed_anywhere_it_ends_in_the_same_bytes(build, config, quiet, kind, kills):
    with tempfile.TemporaryDirectory() as where:
        target = Path(where)
        for at, record_seconds in kills:
            calls = iter(range(at))

            def asked(calls=calls):
                if next(calls, None) is None:
                    raise KilledError
                return False

            with contextlib.suppress(KilledError):
                build(config(kind), target, record_seconds=record_seconds, asked=asked)
        info = build(config(kind), target)
        assert (found_in(target), info) == quiet[kind]


@pytest.mark.parametrize("kind", KINDS)
@given(stops=st.lists(st.integers(0, 14), min_size=1, max_size=3))
@settings(deadline=None, max_examples=5)
def test_asked_to_stop_it_loses_nothing_it_read(build, config, quiet, kind, stops):
    with tempfile.TemporaryDirectory() as where:
        target, before = Path(where), 0
        for at in stops:
            read = []
            calls = iter(range(at))
            with contextlib.suppress(Interrupted):
                build(
                    config(kind),
                    target,
                    asked=lambda calls=calls: next(calls, None) is None,
                    report=lambda counts, read=read: read.append(counts.num_examples),
                )
            assert not before or read[0] == before
            before = read[-1]
        info = build(config(kind), target)
        assert (found_in(target), info) == quiet[kind]


def test_sigterm_stops_it_and_the_next_run_goes_on(build, config, quiet, tmp_path):
    signals = iter([signal.SIGTERM])

    def terminate(counts):
        for number in signals:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted), watched() as asked:
        build(
            config("jsonl"), tmp_path, record_seconds=0, asked=asked, report=terminate
        )
    read = []
    info = build(config("jsonl"), tmp_path, report=read.append)
    assert 0 < read[0].num_examples < read[-1].num_examples
    assert (found_in(tmp_path), info) == quiet["jsonl"]


KILLED = """
import sys, time
from pathlib import Path
from pydantic import TypeAdapter
from tasks import corpus
from trilemma import corpus as library
from trilemma.config.sources import Corpus
config = TypeAdapter(Corpus).validate_json(sys.argv[1])
print("begun", flush=True)
corpus.build(
    config, Path(sys.argv[2]), Path(sys.argv[3]),
    source=library.source_digest(config), record_seconds=0, asked=lambda: False,
    report=lambda counts: time.sleep(0.02),
)
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.01, 0.05, 0.1, 0.15])
def test_sigkill_loses_only_what_was_not_recorded(
    build, config, folder, quiet, tmp_path, delay
):
    words = (config("jsonl").model_dump_json(), folder / "lm", tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        while not (tmp_path / "checkpoints").exists():
            assert process.poll() is None
        time.sleep(delay)
        process.kill()
    info = build(config("jsonl"), tmp_path)
    assert (found_in(tmp_path), info) == quiet["jsonl"]


def test_the_facts_tell_what_was_read_and_what_was_skipped(build, config, tmp_path):
    source = config("hub")
    info = build(source, tmp_path)
    assert {k: v for k, v in info.items() if k not in corpus.SPLITS} == {
        "source": COMMIT,
        "ctx": CTX,
        "num_examples": 300,
        "num_blank": 2,
        "num_duplicates": 37,
        "num_documents": 261,
        "num_characters": info["num_characters"],
        "num_tokens": info["num_tokens"],
        "num_dropped_tokens": info["num_dropped_tokens"],
    }
    kept = 0
    for split in corpus.SPLITS:
        rows = Rows(tmp_path, split)
        document = rows.document(slice(None))
        assert info[split] == {
            "num_seqs": rows.num_seqs,
            "num_documents": len(np.unique(document)),
        }
        assert rows.ctx == CTX
        kept += document.size
    assert info["num_tokens"] - info["num_dropped_tokens"] == kept
    assert info["num_dropped_tokens"] < len(corpus.SPLITS) * CTX


def test_every_document_keeps_its_label(build, config, quiet, tmp_path):
    info = build(config("labelled"), tmp_path)
    texts_kept = [text for text in dict.fromkeys(texts()) if text.strip()]
    expected = [label_of(text) for text in texts_kept]
    labels = [each["label"] for each in info["labels"]]
    known = [str(label) for label in expected if label is not None]
    assert labels == list(dict.fromkeys(known))
    found = np.load(tmp_path / corpus.LABELS, allow_pickle=False)
    names = [None if code < 0 else int(labels[code]) for code in found]
    assert names == expected
    assert [each["num_documents"] for each in info["labels"]] == [
        known.count(label) for label in labels
    ]
    # The rows are those that they are without labels.
    rows = {name: quiet["labelled"][0][name] for name in FILES}
    assert rows == quiet["jsonl"][0]


def test_a_shuffled_stream_gives_other_rows_by_its_seed(config, quiet, build, tmp_path):
    assert quiet["shuffled"][0] != quiet["hub"][0]
    build(config("shuffled", seed=4), tmp_path)
    assert found_in(tmp_path) != quiet["shuffled"][0]


def test_cached_rows_are_found_again_by_their_document(config, build, tmp_path, folder):
    build(config("saelens_cache"), tmp_path)
    cached = datasets.load_from_disk(folder / "saelens_cache").with_format("numpy")
    held = []
    for split in corpus.SPLITS:
        rows = Rows(tmp_path, split)
        document = rows.document(slice(None))
        assert (document == document[:, :1]).all()
        expected = np.stack([cached[int(n)]["token_ids"] for n in document[:, 0]])
        assert np.array_equal(rows.tokens(slice(None)), expected)
        held += document[:, 0].tolist()
    assert sorted(held) == [n for n in range(400) if n != 11]


@pytest.mark.parametrize(("kind", "where"), [("jsonl", "paths"), ("cache", "path")])
def test_files_that_change_while_they_are_read_are_refused(
    config, folder, tmp_path, kind, where
):
    source = config("saelens_cache" if kind == "cache" else kind)
    with pytest.raises(ValueError) as error:
        corpus.build(
            source,
            folder / "lm",
            tmp_path,
            source="what they were",
            record_seconds=NEVER,
            asked=lambda: False,
            report=lambda counts: None,
        )
    assert str(error.value) == (
        f"corpus.{where}: the files have changed since this run was planned; run it "
        "again"
    )
    assert list(tmp_path.iterdir()) == []
