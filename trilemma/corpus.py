"""The corpus: text from anywhere, packed into rows of tokens and split by document."""

import glob
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import torch
from jaxtyping import Int32, Int64

from trilemma import embedded, hub, lm
from trilemma.config.sources import Corpus, EmbeddedCorpus, FileCorpus, HubCorpus

_BATCH_DOCUMENTS = 64
_BUILDERS = {"text": "text", "jsonl": "json", "parquet": "parquet"}


class Packed(NamedTuple):
    """Rows of tokens without gaps; a document may go on in another row."""

    tokens: Int32[np.ndarray, "num_seqs ctx"]
    document: Int64[np.ndarray, "num_seqs ctx"]
    """Place of each token's document in the order of reading."""
    num_documents: int


class CorpusRows(NamedTuple):
    """Both splits, which share no document."""

    train: Packed
    eval: Packed
    info: dict[str, int]
    """Counts of what was read and of what the packing dropped."""


def build(
    config: Corpus, tokenizer_folder: Path, *, vocab_size: int, context: int | None
) -> CorpusRows:
    """Return the corpus in rows, shuffled once by its seed.

    Each document is closed by the end-of-text token. Which split it belongs to hangs
    on a hash of its text alone, so neither order nor number of documents matters. A
    text that came before is left out: its copies would be split as other documents.
    `vocab_size` and `context` are what the LM can read; None where it does not say.

    Raises:
        ValueError: the source cannot be read, is too small or does not fit the LM.

    """
    tokenizer = lm.load_tokenizer(tokenizer_folder)
    if len(tokenizer) > vocab_size:
        raise ValueError(
            f"corpus: the tokenizer has {len(tokenizer):,} ids but the LM's vocabulary "
            f"is {vocab_size:,}; use the tokenizer that belongs to the LM"
        )
    if context is not None and config.ctx > context:
        raise ValueError(
            f"corpus.ctx: found {config.ctx}; the LM reads at most {context} tokens"
        )
    end = _end_of_text(tokenizer)
    splits = {"train": _Split(), "eval": _Split()}
    num_documents = num_characters = num_tokens = 0
    for text, ids in _tokenized(_distinct(_texts(config)), tokenizer, end):
        split = splits["eval" if _is_eval(text, config.eval_fraction) else "train"]
        split.append(ids, num_documents)
        num_documents += 1
        num_characters += len(text)
        num_tokens += len(ids)
        if config.max_tokens is not None and num_tokens >= config.max_tokens:
            break
    if num_documents == 0:
        raise ValueError(
            f"corpus: no text in {_place(config)}; name a source that holds some"
        )
    generator = torch.Generator().manual_seed(config.seed)
    packed = {
        name: split.pack(config.ctx, name, generator) for name, split in splits.items()
    }
    num_kept = sum(rows.tokens.size for rows in packed.values())
    info = {
        "num_documents": num_documents,
        "num_characters": num_characters,
        "num_tokens": num_tokens,
        "num_dropped_tokens": num_tokens - num_kept,
    }
    return CorpusRows(packed["train"], packed["eval"], info)


def source_digest(config: Corpus) -> str:
    """Return what stands for the source's content: a SHA-256, or the hub's commit."""
    if isinstance(config, EmbeddedCorpus):
        return embedded.text_digest()
    if isinstance(config, HubCorpus):
        return hub.resolve(config.id, config.revision, kind="dataset")
    digest = hashlib.sha256()
    for path in _files(config):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


class _Split:
    """The documents of one split, gathered until they can be packed."""

    def __init__(self) -> None:
        self._tokens: list[Int32[np.ndarray, " length"]] = []
        self._documents: list[int] = []

    def append(self, ids: list[int], document: int) -> None:
        self._tokens.append(np.asarray(ids, dtype=np.int32))
        self._documents.append(document)

    def pack(self, ctx: int, name: str, generator: torch.Generator) -> Packed:
        lengths = [len(ids) for ids in self._tokens]
        num_seqs = sum(lengths) // ctx
        if num_seqs == 0:
            raise ValueError(
                f"corpus: the {name} split has {sum(lengths):,} tokens, fewer than one "
                f"row of ctx {ctx:,}; give more text or change corpus.eval_fraction"
            )
        order = torch.randperm(num_seqs, generator=generator).numpy()
        tokens = np.concatenate(self._tokens)
        document = np.repeat(np.asarray(self._documents, dtype=np.int64), lengths)
        kept = num_seqs * ctx
        return Packed(
            tokens=tokens[:kept].reshape(num_seqs, ctx)[order],
            document=document[:kept].reshape(num_seqs, ctx)[order],
            num_documents=len(np.unique(document[:kept])),
        )


class _Tokenized(NamedTuple):
    text: str
    ids: list[int]


def _distinct(texts: Iterable[str]) -> Iterator[str]:
    """Yield each text the first time that it comes."""
    seen: set[bytes] = set()
    for text in texts:
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            yield text


def _tokenized(
    texts: Iterable[str], tokenizer: lm.Tokenizer, end: int
) -> Iterator[_Tokenized]:
    """Yield each text that is not blank with its token ids, `end` the last of them.

    Whatever the tokenizer itself adds, such as a token for the beginning, stays.
    """
    written = (text for text in texts if text.strip())
    while batch := list(itertools.islice(written, _BATCH_DOCUMENTS)):
        # `verbose` would warn that documents are longer than the LM's context.
        for text, ids in zip(
            batch, tokenizer(batch, verbose=False)["input_ids"], strict=True
        ):
            yield _Tokenized(text, ids if ids[-1:] == [end] else [*ids, end])


def _texts(config: Corpus) -> Iterator[str]:
    if isinstance(config, EmbeddedCorpus):
        return (document.text for document in embedded.documents())
    with hub.quiet():
        source = _open(config)
    return _column(source, config)


def _open(config: FileCorpus | HubCorpus) -> Iterable[dict[str, object]]:
    """Return the source's examples, read as they are asked for."""
    if isinstance(config, FileCorpus):
        files = [str(path) for path in _files(config)]
        settings = {"sample_by": "document"} if config.kind == "text" else {}
        examples: Iterable[dict[str, object]] = datasets.load_dataset(
            _BUILDERS[config.kind],
            data_files=files,
            split="train",
            streaming=True,
            **settings,
        )
        return examples
    try:
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
    return examples


def _column(
    examples: Iterable[dict[str, object]], config: FileCorpus | HubCorpus
) -> Iterator[str]:
    column = "text" if config.kind == "text" else config.column
    for example in _readable(examples, config):
        if column not in example:
            raise ValueError(
                f"corpus.column: no column {column!r}; the columns are "
                f"{', '.join(example)}"
            )
        text = example[column]
        if isinstance(text, str):
            yield text
        elif text is not None:
            raise ValueError(
                f"corpus.column: {column!r} holds {type(text).__name__}; name a column "
                "of text"
            )


def _readable(
    examples: Iterable[dict[str, object]], config: FileCorpus | HubCorpus
) -> Iterator[dict[str, object]]:
    """Yield the examples; say which source it was where one cannot be decoded."""
    try:
        yield from examples
    except ValueError as error:
        raise ValueError(
            f"corpus: {_place(config)} cannot be read as {config.kind} "
            f"({_first_line(error)}); check corpus.kind and the source"
        ) from error


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


def _end_of_text(tokenizer: lm.Tokenizer) -> int:
    for token in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        if token is not None:
            return int(token)
    raise ValueError(
        "corpus: the tokenizer has no token that ends a text; set its eos_token"
    )


def _is_eval(text: str, eval_fraction: float) -> bool:
    digest = hashlib.sha256(f"corpus/split\n{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < eval_fraction * 2**64


def _place(config: Corpus) -> str:
    if isinstance(config, FileCorpus):
        return ", ".join(config.paths)
    return config.id if isinstance(config, HubCorpus) else "the standard library"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
