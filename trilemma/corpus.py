"""The corpus: text from anywhere as tokens, each document in one of two splits."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int32, Int64

from trilemma import duplicates, lm, texts
from trilemma.config.sources import CachedCorpus, Corpus, EmbeddedCorpus
from trilemma.duplicates import Seen
from trilemma.saelens_cache import Cache
from trilemma.texts import Text, TextCorpus, Texts

Split = Literal["train", "eval"]

MAX_LABELS = 1_000
"""An evaluation counts each latent's firings by label, five times over: in 40 kB."""

# What is tokenized at once; only speed and memory hang on it.
_BATCH_DOCUMENTS = 64
_BATCH_CHARACTERS = 1 << 20
_BATCH_ROWS = 256


class Counts(NamedTuple):
    """What has been read of a source."""

    num_examples: int = 0
    """Examples of the source, from its first on."""
    num_blank: int = 0
    """Of these, those whose text is null, empty or only spaces: skipped."""
    num_duplicates: int = 0
    """Of these, those whose text had come before: skipped."""
    num_documents: int = 0
    """The rest."""
    num_characters: int = 0
    """Their characters; 0 where only tokens are known."""
    num_tokens: int = 0
    """Their tokens, with those that end them."""


class Position(NamedTuple):
    """How far a source has been read, and how to go on from there."""

    counts: Counts = Counts()
    state: dict[str, Any] | None = None
    """What the source itself noted, JSON; None where the counts are enough."""
    is_end: bool = False
    """Whether nothing is left, or enough has been read."""
    labels: Sequence[str] = ()
    """The different labels of the documents so far, in the order they came in."""


class Document(NamedTuple):
    """The tokens of one text, the last of which ends it."""

    split: Split
    tokens: Int32[np.ndarray, " length"]
    number: int
    """Its place among the documents; of a cached row, its place in the cache."""
    digest: bytes
    """What tells it from other texts."""
    label: int | None
    """Which of the labels it has; None for none."""


class Batch(NamedTuple):
    """Some documents, and where the reading stands after them."""

    documents: list[Document]
    position: Position


def read(
    config: Corpus,
    tokenizer_folder: Path,
    *,
    vocab_size: int,
    context: int | None,
    seen: Seen,
    start: Position,
) -> Iterator[Batch]:
    """Yield the documents of a corpus from a position on; the last batch is its end.

    Each document is closed by the end-of-text token. Which split it belongs to hangs
    on a hash of its text alone, so neither order nor number of documents matters. A
    text that came before is left out: its copies would be split as other documents.
    A document has the label that its text first came with.
    `seen` are the digests of the documents before `start`. `vocab_size` and `context`
    are what the LM can read; None where it does not say.

    Raises:
        ValueError: the source cannot be read, holds nothing or does not fit the LM.

    """
    ctx = row_length(config)
    if context is not None and ctx > context:
        if isinstance(config, CachedCorpus):
            where = f"corpus.path: found rows of {ctx} tokens"
        else:
            where = f"corpus.ctx: found {ctx}"
        raise ValueError(f"{where}; the LM reads at most {context} tokens")
    if start.is_end:
        return
    if isinstance(config, CachedCorpus):
        batches = _cached_rows(config, vocab_size=vocab_size, seen=seen, start=start)
    else:
        tokenizer = lm.load_tokenizer(tokenizer_folder)
        if len(tokenizer) > vocab_size:
            raise ValueError(
                f"corpus: the tokenizer has {len(tokenizer):,} ids but the LM's "
                f"vocabulary is {vocab_size:,}; use the tokenizer that belongs to the "
                "LM"
            )
        batches = _texts(config, tokenizer, seen=seen, start=start)
    for batch in batches:
        if batch.position.is_end and not batch.position.counts.num_documents:
            raise ValueError(
                f"corpus: no text in {_place(config)}; name a source that holds some"
            )
        yield batch


def row_orders(
    config: Corpus, num_tokens: Mapping[Split, int]
) -> dict[Split, Int64[np.ndarray, " num_seqs"]]:
    """Return the order in which each split's rows are stored, drawn by the seed.

    A row is `ctx` tokens of the split's documents, read on without gaps; what is left
    after the last whole row is dropped.

    Raises:
        ValueError: a split is shorter than a row.
    """
    ctx = row_length(config)
    generator = torch.Generator().manual_seed(config.seed)
    orders = {}
    for split, count in num_tokens.items():
        if count < ctx:
            raise ValueError(
                f"corpus: the {split} split has {count:,} tokens, fewer than one "
                f"row of ctx {ctx:,}; give more text or change corpus.eval_fraction"
            )
        orders[split] = torch.randperm(count // ctx, generator=generator).numpy()
    return orders


def label_column(config: Corpus) -> str | None:
    """Return the column that labels the documents; None where nothing does."""
    if isinstance(config, EmbeddedCorpus | CachedCorpus):
        return None
    return config.label_column


def row_length(config: Corpus) -> int:
    """Return the tokens of a row; a cache says so itself."""
    if isinstance(config, CachedCorpus):
        return Cache.open(config.path).ctx
    return config.ctx


def source_digest(config: Corpus) -> str:
    """Return what stands for the source's content: a SHA-256, or the hub's commit."""
    if isinstance(config, CachedCorpus):
        return Cache.open(config.path).digest()
    return texts.digest(config)


class _New(NamedTuple):
    """A text that has not come before."""

    text: str
    digest: bytes
    label: str | None
    counts: Counts
    """What has been read up to it; of the documents, those before its batch."""


def _texts(
    config: TextCorpus, tokenizer: lm.Tokenizer, *, seen: Seen, start: Position
) -> Iterator[Batch]:
    end = _end_of_text(tokenizer)
    counts = start.counts
    source = Texts(config, num_read=counts.num_examples, state=start.state)
    codes = {label: code for code, label in enumerate(start.labels)}
    is_end = False
    while not is_end:
        batch, read = _gather(source, seen, counts)
        is_end = not batch
        documents = []
        for new, ids in zip(batch, _tokenized(batch, tokenizer, end), strict=True):
            split = _split(f"corpus/split\n{new.text}".encode(), config.eval_fraction)
            code = _code(new.label, codes, config)
            documents.append(
                Document(split, ids, counts.num_documents, new.digest, code)
            )
            counts = _counted(new.counts, counts, len(new.text), len(ids))
            if is_end := _is_enough(config, counts):
                break
        else:
            # Blank texts and copies may have come after the last document.
            counts = Counts(*read[:3], *counts[3:])
        yield Batch(documents, Position(counts, source.state(), is_end, tuple(codes)))


def _code(label: str | None, codes: dict[str, int], config: TextCorpus) -> int | None:
    """Return the number of a label, which is new if it comes for the first time."""
    if label is None:
        return None
    if label not in codes and len(codes) == MAX_LABELS:
        raise ValueError(
            f"corpus.label_column: {label_column(config)!r} holds more than "
            f"{MAX_LABELS:,} different labels; name a column of fewer"
        )
    return codes.setdefault(label, len(codes))


def _cached_rows(
    config: CachedCorpus, *, vocab_size: int, seen: Seen, start: Position
) -> Iterator[Batch]:
    """Yield each row as a document: where its texts begin and end is not known."""
    cache = Cache.open(config.path)
    counts = start.counts
    is_end = False
    while not is_end:
        first = counts.num_examples
        rows = cache.tokens(slice(first, first + _BATCH_ROWS))
        is_end = not len(rows)
        documents = []
        for number, tokens in enumerate(rows, start=first):
            _check_ids(tokens, number, vocab_size)
            counts = counts._replace(num_examples=number + 1)
            content = tokens.tobytes()
            digest = duplicates.digest(content)
            if not seen.add(digest):
                counts = counts._replace(num_duplicates=counts.num_duplicates + 1)
                continue
            split = _split(b"corpus/split\n" + content, config.eval_fraction)
            documents.append(Document(split, tokens, number, digest, None))
            counts = _counted(counts, counts, 0, len(tokens))
            if is_end := _is_enough(config, counts):
                break
        yield Batch(documents, Position(counts, None, is_end))


def _gather(
    source: Iterable[Text], seen: Seen, counts: Counts
) -> tuple[list[_New], Counts]:
    """Return a batch of new texts, and what has been read then; none at the end."""
    batch: list[_New] = []
    num_characters = 0
    for text, label in source:
        counts = counts._replace(num_examples=counts.num_examples + 1)
        if text is None or not text.strip():
            counts = counts._replace(num_blank=counts.num_blank + 1)
            continue
        digest = duplicates.digest(text.encode())
        if not seen.add(digest):
            counts = counts._replace(num_duplicates=counts.num_duplicates + 1)
            continue
        batch.append(_New(text, digest, label, counts))
        num_characters += len(text)
        if len(batch) == _BATCH_DOCUMENTS or num_characters >= _BATCH_CHARACTERS:
            break
    return batch, counts


def _tokenized(
    batch: list[_New], tokenizer: lm.Tokenizer, end: int
) -> Iterator[Int32[np.ndarray, " length"]]:
    """Yield the token ids of each text, `end` the last of them.

    Whatever the tokenizer itself adds, such as a token for the beginning, stays.
    """
    if not batch:
        return
    # `verbose` would warn that documents are longer than the LM's context.
    encoded = tokenizer([new.text for new in batch], verbose=False)
    for ids in encoded["input_ids"]:
        whole = ids if ids[-1:] == [end] else [*ids, end]
        yield np.asarray(whole, dtype=np.int32)


def _counted(
    read: Counts, before: Counts, num_characters: int, num_tokens: int
) -> Counts:
    """Return the counts with one more document."""
    return read._replace(
        num_documents=before.num_documents + 1,
        num_characters=before.num_characters + num_characters,
        num_tokens=before.num_tokens + num_tokens,
    )


def _is_enough(config: Corpus, counts: Counts) -> bool:
    return config.max_tokens is not None and counts.num_tokens >= config.max_tokens


def _split(salted: bytes, eval_fraction: float) -> Split:
    digest = hashlib.sha256(salted).digest()
    is_eval = int.from_bytes(digest[:8], "big") < eval_fraction * 2**64
    return "eval" if is_eval else "train"


def _end_of_text(tokenizer: lm.Tokenizer) -> int:
    for token in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        if token is not None:
            return int(token)
    raise ValueError(
        "corpus: the tokenizer has no token that ends a text; set its eos_token"
    )


def _check_ids(tokens: Int32[np.ndarray, " ctx"], number: int, vocab_size: int) -> None:
    wrong = tokens[(tokens < 0) | (tokens >= vocab_size)]
    if len(wrong):
        raise ValueError(
            f"corpus.path: found token id {wrong[0]} in row {number:,} of the cache, "
            f"the LM's vocabulary is {vocab_size:,}; name the LM that it was made with"
        )


def _place(config: Corpus) -> str:
    return config.path if isinstance(config, CachedCorpus) else texts.place(config)
