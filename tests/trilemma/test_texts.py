"""Texts come in one order, and from any place in it the rest comes as before."""

import json

import datasets
import pytest
from huggingface_hub import constants
from pydantic import TypeAdapter

from trilemma import embedded, hub, texts
from trilemma.config.sources import Corpus
from trilemma.texts import Texts

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_CORPUS: TypeAdapter[Corpus] = TypeAdapter(Corpus)
NUM_TEXTS = 90
SHUFFLED = {"shuffle_buffer": 20}
KINDS = ("text", "jsonl", "parquet", "hub", "downloaded", "shuffled")


def config(**values):
    return _CORPUS.validate_python({"ctx": 16} | values)


def sentences():
    return [f"Text number {i} tells of {i * i} things." for i in range(NUM_TEXTS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the same texts in files of every kind."""
    folder = tmp_path_factory.mktemp("texts")
    for index, text in enumerate(sentences()):
        (folder / f"{index:02d}.txt").write_text(text)
    for index in range(3):
        part = sentences()[index * 30 : (index + 1) * 30]
        lines = [json.dumps({"text": text, "n": 1}) for text in part]
        path = folder / "lines" / f"train-{index}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines))
        with hub.quiet():
            path = folder / "data" / f"train-{index}.parquet"
            path.parent.mkdir(exist_ok=True)
            # Several groups of rows in each file.
            datasets.Dataset.from_dict({"text": part}).to_parquet(path, batch_size=7)
    return folder


@pytest.fixture
def source(folder, tmp_path, monkeypatch):
    """Return a function: the settings of a source of each kind."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))

    def settings(kind):
        if kind in ("hub", "downloaded", "shuffled"):
            extra = {"downloaded": {"streaming": False}, "shuffled": SHUFFLED}
            # `datasets` takes a folder where it would take a name on the hub.
            # Parquet files read in turn would wait for threads to end.
            data = folder / ("lines" if kind == "shuffled" else "data")
            return config(
                kind="hub", id=str(data), revision=COMMIT, **extra.get(kind, {})
            )
        patterns = {
            "text": "*.txt",
            "jsonl": "lines/*.jsonl",
            "parquet": "data/*.parquet",
        }
        return config(kind=kind, paths=[str(folder / patterns[kind])])

    return settings


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_every_kind_gives_the_same_texts_in_their_order(source, kind):
    found = Texts(source(kind), num_read=0, state=None)
    assert list(found) == [(text, None) for text in sentences()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_read", [0, 1, 7, 29, 30, 31, 64, NUM_TEXTS])
def test_the_rest_comes_as_before(source, kind, num_read):
    whole = Texts(source(kind), num_read=0, state=None)
    read = [next(whole) for _ in range(num_read)]
    state = json.loads(json.dumps(whole.state()))
    again = Texts(source(kind), num_read=num_read, state=state if num_read else None)
    assert list(again) == list(whole)
    assert len(read) == num_read


def test_the_rest_of_the_rest_comes_as_before(source):
    first = Texts(source("parquet"), num_read=0, state=None)
    assert [next(first).text for _ in range(40)] == sentences()[:40]
    second = Texts(source("parquet"), num_read=40, state=first.state())
    assert [next(second).text for _ in range(10)] == sentences()[40:50]
    third = Texts(source("parquet"), num_read=50, state=second.state())
    assert [found.text for found in third] == sentences()[50:]


def test_a_stream_is_shuffled_by_its_seed(source):
    shuffled = source("shuffled")
    other = shuffled.model_copy(update={"seed": 1})
    first, second, third = (
        [found.text for found in Texts(each, num_read=0, state=None)]
        for each in (shuffled, shuffled, other)
    )
    assert first == second
    assert first != sentences()
    assert sorted(first) == sorted(sentences())
    assert third != first


def test_only_a_stream_in_its_own_order_tells_its_state(source):
    told = {
        kind: Texts(source(kind), num_read=0, state=None).state() is not None
        for kind in KINDS
    }
    assert told == dict.fromkeys(KINDS, True) | {
        "downloaded": False,
        "shuffled": False,
    }


def test_the_embedded_text_is_skipped_by_its_count():
    every = [document.text for document in embedded.documents()]
    found = Texts(config(kind="embedded"), num_read=len(every) - 3, state=None)
    assert list(found) == [(text, None) for text in every[-3:]]
    assert found.state() is None


def test_an_example_without_text_is_none(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a"}\n{"text": null}\n{"text": ""}\n')
    found = Texts(config(kind="jsonl", paths=[str(path)]), num_read=0, state=None)
    assert [each.text for each in found] == ["a", None, ""]


def labels_in(path, examples):
    """Return what the column `label` says of examples in a file of JSON lines."""
    lines = [json.dumps({"text": "a"} | example) for example in examples]
    path.write_text("\n".join(lines))
    found = read_all(kind="jsonl", paths=[str(path)], label_column="label")
    return [each.label for each in found]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["en", "", " ", "de"], ["en", None, None, "de"]),
        ([3, -7, 2**40], ["3", "-7", "1099511627776"]),
        ([True, None, False], ["true", None, "false"]),
        ([None, None], [None, None]),
    ],
)
def test_labels_are_values_as_text(tmp_path, values, labels):
    examples = [{"label": value} for value in values]
    assert labels_in(tmp_path / "texts", examples) == labels


def test_an_example_that_lacks_the_column_has_no_label(tmp_path):
    assert labels_in(tmp_path / "texts", [{"label": "en"}, {}]) == ["en", None]


def test_labels_come_beside_their_texts_from_any_place(source, folder):
    path = folder / "labelled" / "train.parquet"
    path.parent.mkdir()
    labels = [f"group {i % 7}" if i % 5 else None for i in range(NUM_TEXTS)]
    columns = {"text": sentences(), "group": labels}
    with hub.quiet():
        datasets.Dataset.from_dict(columns).to_parquet(path, batch_size=7)
    sources = [
        config(kind="parquet", paths=[str(path)], label_column="group"),
        *(
            config(
                kind="hub", id=str(path.parent), revision=COMMIT, label_column="group",
                streaming=streaming,
            )
            for streaming in (True, False)
        ),
    ]  # fmt: skip
    for labelled in sources:
        whole = Texts(labelled, num_read=0, state=None)
        first = [next(whole) for _ in range(40)]
        again = Texts(labelled, num_read=40, state=whole.state())
        expected = list(zip(sentences(), labels, strict=True))
        assert first + list(again) == expected


@pytest.mark.parametrize(
    ("value", "kind"), [(1.5, "float"), (["en"], "list"), ({"of": "en"}, "dict")]
)
def test_what_is_no_label_is_refused(tmp_path, value, kind):
    with pytest.raises(ValueError) as error:
        labels_in(tmp_path / "texts", [{"label": value}])
    assert str(error.value) == (
        f"corpus.label_column: 'label' holds {kind}; name a column of strings, "
        "integers or booleans"
    )


def test_a_column_of_labels_that_is_not_there_names_the_columns(tmp_path):
    with pytest.raises(ValueError) as error:
        labels_in(tmp_path / "texts", [{"lang": "en"}])
    assert str(error.value) == (
        "corpus.label_column: no column 'label'; the columns are text, lang"
    )


def read_all(**values):
    return list(Texts(config(**values), num_read=0, state=None))


@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_a_file_that_is_not_utf8_is_named(tmp_path, kind):
    content = {"text": b"hello \xff", "jsonl": b'{"text": "hello \xff"}\n'}
    good = {"text": b"good", "jsonl": b'{"text": "good"}\n'}
    for name in "abcd":
        (tmp_path / name).write_bytes(good[kind])
    (tmp_path / "c").write_bytes(content[kind])
    with pytest.raises(ValueError) as error:
        read_all(kind=kind, paths=[str(tmp_path / "*")])
    message = str(error.value)
    assert message.startswith(f"corpus: {tmp_path / 'c'} is not UTF-8 ('utf-8' codec")
    assert message.endswith("); convert it, or leave it out")
    assert "\n" not in message


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("bad", [0, 2])
def test_a_file_of_another_kind_is_named(tmp_path, folder, kind, bad):
    good = {
        "jsonl": folder / "lines/train-0.jsonl",
        "parquet": folder / "data/train-0.parquet",
    }
    for index in range(4):
        (tmp_path / str(index)).write_bytes(good[kind].read_bytes())
    (tmp_path / str(bad)).write_bytes(b"neither of them")
    with pytest.raises(ValueError) as error:
        read_all(kind=kind, paths=[str(tmp_path / "*")])
    message = str(error.value)
    assert message.startswith(f"corpus: {tmp_path / str(bad)} cannot be read as {kind}")
    assert message.endswith("check corpus.kind and the source")
    assert "\n" not in message


def test_files_that_do_not_fit_each_other_are_named_together(tmp_path):
    (tmp_path / "0").write_text('{"text": "a", "n": {"b": 1}}\n')
    (tmp_path / "1").write_text('{"text": "a", "n": "word"}\n' * 3)
    with pytest.raises(ValueError) as error:
        read_all(kind="jsonl", paths=[str(tmp_path / "*")])
    assert str(error.value) == (
        f"corpus: {tmp_path / '*'} cannot be read as jsonl (Couldn't cast array of "
        "type); check corpus.kind and the source"
    )


def test_an_unknown_column_names_the_columns(folder):
    with pytest.raises(ValueError) as error:
        read_all(kind="jsonl", paths=[str(folder / "lines/*.jsonl")], column="body")
    assert str(error.value) == (
        "corpus.column: no column 'body'; the columns are text, n"
    )


def test_a_column_without_text_is_refused(folder):
    with pytest.raises(ValueError) as error:
        read_all(kind="jsonl", paths=[str(folder / "lines/*.jsonl")], column="n")
    assert str(error.value) == "corpus.column: 'n' holds int; name a column of text"


def test_files_that_do_not_exist_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"^corpus.paths: no file matches '.*\*.txt'"):
        read_all(kind="text", paths=[str(tmp_path / "*.txt")])


def test_a_data_set_without_that_split_says_what_to_check(folder):
    with pytest.raises(ValueError) as error:
        read_all(kind="hub", id=str(folder), revision=COMMIT, split="none")
    assert str(error.value).startswith(f"corpus.id: '{folder}' cannot be read (")
    assert str(error.value).endswith(
        "check corpus.subset, corpus.split and the network"
    )


def test_digest_follows_the_content(tmp_path, folder):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a"}\n')
    source = config(kind="jsonl", paths=[str(path)])
    before = texts.digest(source)
    assert texts.digest(source) == before
    path.write_text('{"text": "b"}\n')
    assert texts.digest(source) != before


def test_digest_of_the_embedded_text_is_that_of_the_text():
    assert texts.digest(config(kind="embedded")) == embedded.text_digest()


def test_digest_of_a_pinned_data_set_is_its_commit():
    assert texts.digest(config(kind="hub", id="a/b", revision=COMMIT)) == COMMIT


def test_a_data_set_that_cannot_be_asked_for_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"^corpus.id: 'some/texts' cannot be"):
        texts.digest(config(kind="hub", id="some/texts"))
