"""Where the texts of a corpus come from: Python's own library, files, or the hub."""

import glob
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets

from trilemma import embedded, file_digests, hub
from trilemma.config.sources import EmbeddedCorpus, FileCorpus, HubCorpus

_BUILDERS = {"text": "text", "jsonl": "json", "parquet": "parquet"}
# A file that `datasets` cannot decode, or cannot cast to what the others hold.
_UNREADABLE = (ValueError, TypeError)

TextCorpus = EmbeddedCorpus | FileCorpus | HubCorpus
Example = dict[str, object]


class Text(NamedTuple):
    """What an example of a source holds."""

    text: str | None
    """None where it has none."""
    label: str | None
    """What the column of labels says of it; None without such a column or value."""


class Texts(Iterator[Text]):
    """The texts of a source in a fixed order.

    What a killed process did not finish is gone on with by `num_read` and the `state`
    that was noted after so many examples. A stream is entered at the state where that
    is exact; a shuffled one, whose state lacks what its buffer held, is read again.

    Raises:
        ValueError: the source is not there, or an example is not text or has what is
            no label.
    """

    def __init__(
        self, config: TextCorpus, *, num_read: int, state: dict[str, Any] | None
    ) -> None:
        self._stream: datasets.IterableDataset | None = None
        if isinstance(config, EmbeddedCorpus):
            texts: Iterator[Text]
            texts = (Text(found.text, None) for found in embedded.documents())
        else:
            examples = _open(config)
            is_shuffled = isinstance(config, HubCorpus) and config.shuffle_buffer
            if isinstance(examples, datasets.IterableDataset) and not is_shuffled:
                self._stream = examples
            if self._stream is not None and state is not None:
                self._stream.load_state_dict(state)
                num_read = 0
            elif isinstance(examples, datasets.Dataset) and num_read < len(examples):
                examples = examples.select(range(num_read, len(examples)))
                num_read = 0
            texts = _columns(_readable(examples, config), config)
        self._texts = itertools.islice(texts, num_read, None)

    def __next__(self) -> Text:
        return next(self._texts)

    def state(self) -> dict[str, Any] | None:
        """Return what tells where the next example lies; None where a count does."""
        if self._stream is None:
            return None
        state: dict[str, Any] = self._stream.state_dict()
        return state


def digest(config: TextCorpus) -> str:
    """Return what stands for the texts: a SHA-256, or the hub's commit."""
    if isinstance(config, EmbeddedCorpus):
        return embedded.text_digest()
    if isinstance(config, HubCorpus):
        return hub.resolve(config.id, config.revision, kind="dataset")
    return files_digest(_files(config))


def files_digest(files: Sequence[Path]) -> str:
    """Return the SHA-256 over the contents of files, whatever their names."""
    digest = hashlib.sha256()
    for found in file_digests.sha256(files):
        digest.update(bytes.fromhex(found))
    return digest.hexdigest()


def place(config: TextCorpus) -> str:
    """Return the name of the source for a message."""
    if isinstance(config, FileCorpus):
        return ", ".join(config.paths)
    return config.id if isinstance(config, HubCorpus) else "the standard library"


def _open(
    config: FileCorpus | HubCorpus,
) -> "datasets.Dataset | datasets.IterableDataset":
    """Return the source's examples, read as they are asked for."""
    if isinstance(config, FileCorpus):
        files = _files(config)
        try:
            return _open_files(config, files)
        except _UNREADABLE as error:
            raise _unreadable(config, error, files[0]) from error
    try:
        with hub.quiet():
            examples = datasets.load_dataset(
                config.id,
                name=config.subset,
                split=config.split,
                revision=hub.resolve(config.id, config.revision, kind="dataset"),
                streaming=config.streaming,
            )
    except (ConnectionError, FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"corpus.id: {config.id!r} cannot be read ({_first_line(error)}); check "
            "corpus.subset, corpus.split and the network"
        ) from error
    if config.shuffle_buffer is not None:
        return examples.shuffle(seed=config.seed, buffer_size=config.shuffle_buffer)
    return examples


def _open_files(config: FileCorpus, files: list[Path]) -> "datasets.IterableDataset":
    settings = {"sample_by": "document"} if config.kind == "text" else {}
    with hub.quiet():
        return datasets.load_dataset(
            _BUILDERS[config.kind],
            data_files=[str(path) for path in files],
            split="train",
            streaming=True,
            **settings,
        )


def _columns(
    examples: Iterable[Example], config: FileCorpus | HubCorpus
) -> Iterator[Text]:
    column = "text" if config.kind == "text" else config.column
    for example in examples:
        text = _value(example, column, key="column")
        if text is not None and not isinstance(text, str):
            raise ValueError(
                f"corpus.column: {column!r} holds {type(text).__name__}; name a column "
                "of text"
            )
        label = None
        if config.label_column is not None:
            label = _label(example, config.label_column)
        yield Text(text, label)


def _label(example: Example, column: str) -> str | None:
    """Return what the column says, as text; an empty string says nothing."""
    value = _value(example, column, key="label_column")
    match value:
        case None:
            return None
        case str():
            return value if value.strip() else None
        case bool() | int():
            return json.dumps(value)
    raise ValueError(
        f"corpus.label_column: {column!r} holds {type(value).__name__}; name a column "
        "of strings, integers or booleans"
    )


def _value(example: Example, column: str, *, key: str) -> object:
    if column not in example:
        raise ValueError(
            f"corpus.{key}: no column {column!r}; the columns are {', '.join(example)}"
        )
    return example[column]


def _readable(
    examples: "datasets.Dataset | datasets.IterableDataset",
    config: FileCorpus | HubCorpus,
) -> Iterator[Example]:
    """Yield the examples; say where one that cannot be decoded lies."""
    try:
        yield from examples
    except _UNREADABLE as error:
        suspect = None
        if isinstance(config, FileCorpus):
            files = _files(config)
            suspect = files[min(_file_index(examples.state_dict()), len(files) - 1)]
        raise _unreadable(config, error, suspect) from error


def _file_index(state: dict[str, Any]) -> int:
    """Return which file a stream was reading: each is one of its shards."""
    while isinstance(inner := state.get("examples_iterable"), dict):
        state = inner
    return int(state.get("shard_idx", 0))


def _unreadable(
    config: FileCorpus | HubCorpus, error: Exception, suspect: Path | None
) -> ValueError:
    """Return the error for the user; it names the suspected file if that is guilty."""
    where = place(config)
    if isinstance(config, FileCorpus) and suspect is not None:
        where = str(suspect) if _is_unreadable(config, suspect) else where
    if isinstance(error, UnicodeDecodeError):
        return ValueError(
            f"corpus: {where} is not UTF-8 ({_first_line(error)}); convert it, or "
            "leave it out"
        )
    return ValueError(
        f"corpus: {where} cannot be read as {config.kind} ({_first_line(error)}); "
        "check corpus.kind and the source"
    )


def _is_unreadable(config: FileCorpus, file: Path) -> bool:
    try:
        for _ in _open_files(config, [file]):
            pass
    except _UNREADABLE:
        return True
    return False


def _files(config: FileCorpus) -> list[Path]:
    """Return the files that the patterns match, sorted, each once."""
    found: set[str] = set()
    for pattern in config.paths:
        matches = glob.glob(pattern, recursive=True)
        files = [path for path in matches if Path(path).is_file()]
        if not files:
            raise ValueError(
                f"corpus.paths: no file matches {pattern!r}; name files or patterns "
                "such as 'texts/**/*.txt'"
            )
        found.update(files)
    return [Path(path) for path in sorted(found)]


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
