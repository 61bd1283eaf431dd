"""The `corpus` stage: text to shuffled rows of tokens, split by document."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int16
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger

from storage import durable, token_rows
from storage.token_log import TokenLog
from storage.token_rows import Rows
from tasks import interruption, lm, stage
from tasks.plan import Plan
from trilemma import corpus as library
from trilemma.config.sources import CachedCorpus, Corpus, FileCorpus
from trilemma.corpus import Counts, Position
from trilemma.duplicates import DIGEST, Seen
from trilemma.lm import check_hooks, read_context, read_vocab_size

INFO = "corpus.json"
LABELS = "label.npy"
Split = library.Split
SPLITS: tuple[Split, ...] = ("train", "eval")
# Removed when the stage is committed.
_LOG = "checkpoints"
_RECORD_SECONDS = 10.0
# The rows, and as much again for the log that they are shuffled from.
_BYTES_PER_TOKEN = 2 * 12
_UNKNOWN_TOKENS = 10_000_000


@task(name="corpus", cache_policy=NO_CACHE, retries=0, persist_result=False)
def corpus(plan: Plan, *, force: bool) -> State[stage.Outcome]:
    """Leave packed rows of tokens with document ids, for training and evaluation."""
    return stage.perform(plan, plan.of("corpus"), _body, force=force)


def read(plan: Plan, split: str) -> Rows:
    """Return the rows of a split."""
    return Rows(plan.step("corpus").folder, split)


def read_info(plan: Plan) -> dict[str, Any]:
    """Return what the corpus says of itself: counts, and what of the source it is."""
    info: dict[str, Any] = json.loads((plan.step("corpus").folder / INFO).read_text())
    return info


def read_labels(plan: Plan) -> Int16[np.ndarray, " document"] | None:
    """Return the label of each document by its id, -1 for none; None without labels."""
    config = plan.run.corpus
    if config is None or library.label_column(config) is None:
        return None
    labels: Int16[np.ndarray, " document"]
    labels = np.load(plan.step("corpus").folder / LABELS, allow_pickle=False)
    return labels


def build(
    config: Corpus,
    tokenizer_folder: Path,
    folder: Path,
    *,
    source: str,
    record_seconds: float,
    asked: Callable[[], bool],
    report: Callable[[Counts], None],
) -> dict[str, Any]:
    """Write the rows of a corpus to a folder, and return what is said of them.

    A call that came to no end is gone on with by the next; the bytes are the same.
    What is held does not grow with the tokens: 50 bytes for each document at most, to
    know its copies and its label, and 8 for each row, to shuffle them. `source` is the
    digest that the source had; `report` is told what has been read whenever that is
    recorded.

    Raises:
        Interrupted: `asked` says so; what was read is kept.
        ValueError: the source cannot be read, does not fit the LM or has changed.
    """
    with TokenLog(folder / _LOG, splits=SPLITS) as log:
        if log.state is not None:
            report(_position(log).counts)
        last = time.monotonic()
        for batch in library.read(
            config,
            tokenizer_folder,
            vocab_size=read_vocab_size(tokenizer_folder),
            context=read_context(tokenizer_folder),
            seen=Seen(log.digests(DIGEST)),
            start=_position(log),
        ):
            for split, tokens, number, digest, label in batch.documents:
                log.append(split, tokens, number, digest, label)
            now, is_asked = time.monotonic(), asked()
            if is_asked or batch.position.is_end or now - last >= record_seconds:
                last = now
                counts = batch.position.counts
                log.record(batch.position._asdict() | {"counts": counts._asdict()})
                report(counts)
            _stop_if(is_asked)
        _check_unchanged(config, source, folder)
        info = _write_rows(log, config, folder, asked) | {"source": source}
        if library.label_column(config) is not None:
            info["labels"] = _write_labels(log, folder)
        return info


def _body(work: stage.Work) -> None:
    (step,) = work.pending
    config = work.plan.run.corpus
    assert config is not None
    folder = work.folder(step)
    if not (folder / INFO).exists():
        needed = (config.max_tokens or _UNKNOWN_TOKENS) * _BYTES_PER_TOKEN
        work.check_room(max(0, needed - _bytes_in(folder)))
        model = lm.folder(work.plan)
        if not isinstance(config, CachedCorpus):
            # A misspelt one would be found by harvest, when the corpus is made.
            assert work.plan.run.harvest is not None
            check_hooks(model, work.plan.run.harvest.hooks)
        with interruption.watched() as asked:
            info = build(
                config,
                model,
                folder,
                source=_source(step.section),
                record_seconds=_RECORD_SECONDS,
                asked=asked,
                report=_log_counts,
            )
            durable.write_json(folder / INFO, info)
    info = json.loads((folder / INFO).read_text())
    get_run_logger().info(
        "corpus: %s training rows of %d tokens from %s documents, %s held-out ones "
        "from %s; skipped %s blank and %s repeated texts of %s",
        f"{info['train']['num_seqs']:,}",
        info["ctx"],
        f"{info['train']['num_documents']:,}",
        f"{info['eval']['num_seqs']:,}",
        f"{info['eval']['num_documents']:,}",
        f"{info['num_blank']:,}",
        f"{info['num_duplicates']:,}",
        f"{info['num_examples']:,}",
    )
    if "labels" in info:
        get_run_logger().info(
            "corpus: %s labels in column %r, on %s documents of %s",
            f"{len(info['labels']):,}",
            library.label_column(config),
            f"{sum(each['num_documents'] for each in info['labels']):,}",
            f"{info['num_documents']:,}",
        )
    work.commit(step)


def _write_rows(
    log: TokenLog, config: Corpus, folder: Path, asked: Callable[[], bool]
) -> dict[str, Any]:
    """Write the shuffled rows of every split, and return all counts."""
    ctx = library.row_length(config)
    counts = _position(log).counts
    info: dict[str, Any] = counts._asdict() | {"ctx": ctx}
    num_kept = 0
    orders = library.row_orders(
        config, {split: log.splits[split].num_tokens for split in SPLITS}
    )
    for split, order in orders.items():
        for name, dtype in token_rows.DTYPES.items():
            token_rows.write_ordered(
                token_rows.path(folder, split, name),
                log.raw(split, name),
                dtype=dtype,
                ctx=ctx,
                order=order,
                report=lambda num_bytes: _stop_if(asked()),
            )
        num_kept += len(order) * ctx
        info[split] = {
            "num_seqs": len(order),
            "num_documents": log.num_documents_in(split, len(order) * ctx),
        }
    return info | {"num_dropped_tokens": counts.num_tokens - num_kept}


def _write_labels(log: TokenLog, folder: Path) -> list[dict[str, Any]]:
    """Write the label of each document; return the labels in their order, counted."""
    found = log.labels()
    with durable.replacing(folder / LABELS) as aside, aside.open("wb") as file:
        np.save(file, found)
    labels = _position(log).labels
    counts = np.bincount(found[found >= 0], minlength=len(labels)).tolist()
    return [
        {"label": label, "num_documents": count}
        for label, count in zip(labels, counts, strict=True)
    ]


def _check_unchanged(config: Corpus, source: str, folder: Path) -> None:
    if not isinstance(config, FileCorpus | CachedCorpus):
        return
    if library.source_digest(config) != source:
        shutil.rmtree(folder / _LOG)
        where = "paths" if isinstance(config, FileCorpus) else "path"
        raise ValueError(
            f"corpus.{where}: the files have changed since this run was planned; run "
            "it again"
        )


def _position(log: TokenLog) -> Position:
    if log.state is None:
        return Position()
    return Position(**log.state | {"counts": Counts(**log.state["counts"])})


def _stop_if(is_asked: bool) -> None:
    if is_asked:
        raise interruption.Interrupted("asked to stop while making the corpus")


def _source(section: dict[str, Any]) -> str:
    """Return the digest of the source that the step's key was made from."""
    (found,) = (section[k] for k in ("text", "commit", "files") if k in section)
    return str(found)


def _bytes_in(folder: Path) -> int:
    """Return what an earlier run has left."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _log_counts(counts: Counts) -> None:
    get_run_logger().info(
        "corpus: read %s documents, %s tokens",
        f"{counts.num_documents:,}",
        f"{counts.num_tokens:,}",
    )
