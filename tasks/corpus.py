"""The `corpus` stage: text to shuffled rows of tokens, split by document."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger

from storage import durable
from tasks import lm, stage
from tasks.plan import Plan
from trilemma import corpus as library
from trilemma.config.sources import FileCorpus
from trilemma.lm import read_context, read_vocab_size

INFO = "corpus.json"
Split = Literal["train", "eval"]
SPLITS: tuple[Split, ...] = ("train", "eval")
_BYTES_PER_TOKEN = 12
_UNKNOWN_TOKENS = 10_000_000


class Rows(NamedTuple):
    """The token rows of one split, mapped from disk."""

    tokens: npt.NDArray[np.int32]
    document: npt.NDArray[np.int64]


@task(name="corpus", cache_policy=NO_CACHE, retries=0, persist_result=False)
def corpus(plan: Plan, *, force: bool) -> State[stage.Outcome]:
    """Leave packed rows of tokens with document ids, for training and evaluation."""
    return stage.perform(plan, plan.of("corpus"), _body, force=force)


def read(plan: Plan, split: str) -> Rows:
    """Return the rows of a split."""
    folder = plan.step("corpus").folder
    return Rows(
        np.load(_path(folder, split, "tokens"), mmap_mode="r"),
        np.load(_path(folder, split, "document"), mmap_mode="r"),
    )


def _body(work: stage.Work) -> None:
    (step,) = work.pending
    config = work.plan.run.corpus
    assert config is not None
    work.check_room((config.max_tokens or _UNKNOWN_TOKENS) * _BYTES_PER_TOKEN)
    source = lm.folder(work.plan)
    built = library.build(
        config,
        source,
        vocab_size=read_vocab_size(source),
        context=read_context(source),
    )
    if isinstance(config, FileCorpus) and (
        library.source_digest(config) != step.section["files"]
    ):
        raise ValueError(
            "corpus.paths: the files have changed since this run was planned; run it "
            "again"
        )
    target = work.folder(step)
    info: dict[str, Any] = dict(built.info)
    for split, packed in zip(SPLITS, (built.train, built.eval), strict=True):
        np.save(_path(target, split, "tokens"), packed.tokens)
        np.save(_path(target, split, "document"), packed.document)
        info[split] = {
            "num_seqs": len(packed.tokens),
            "num_documents": packed.num_documents,
        }
    durable.write_json(target / INFO, info)
    get_run_logger().info(
        "corpus: %s training rows of %d tokens from %s documents, %s held-out ones "
        "from %s",
        f"{len(built.train.tokens):,}",
        config.ctx,
        f"{built.train.num_documents:,}",
        f"{len(built.eval.tokens):,}",
        f"{built.eval.num_documents:,}",
    )
    work.commit(step)


def _path(folder: Path, split: str, name: str) -> Path:
    return folder / f"{split}_{name}.npy"
