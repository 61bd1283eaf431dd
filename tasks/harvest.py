"""The `harvest` stage: activations of an LM, or of a toy, into two stores."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from torch import Tensor

from storage import artifacts, durable
from storage.store import Store, as_tensor, torch_dtype
from storage.store_writer import HookChunk, Layout, StoreWriter, forget_commits
from tasks import corpus, interruption, lm, progress, stage
from tasks.corpus import SPLITS, Rows, Split
from tasks.plan import Plan
from trilemma import harvest as library
from trilemma import toy
from trilemma.config import TOY_HOOK
from trilemma.config.sources import Dtype, Toy
from trilemma.sequences import MASK_HIGH_NORM

_FEATURES = "features.npy"
_MIB = 1 << 20

Reader = Callable[[npt.NDArray[np.int32], int], Mapping[str, Tensor]]


class Source(NamedTuple):
    """Where activations come from: rows of tokens, and what reads them."""

    rows: dict[Split, Rows]
    widths: dict[str, int]
    masks: dict[Split, npt.NDArray[np.uint8]]
    """For each split `[num_seqs, ctx]`, 0 where a row counts as far as is known."""
    provenance: dict[str, Any]
    readers: dict[Split, Reader]
    """For each split, `(tokens, first sequence) -> activations of each hook`."""


@task(name="harvest", cache_policy=NO_CACHE, retries=0, persist_result=False)
def harvest(plan: Plan, *, force: bool) -> State[stage.Outcome]:
    """Leave a store of training rows and one of held-out rows, with statistics."""
    return stage.perform(plan, plan.of("harvest"), _body, force=force)


def open_store(plan: Plan, split: str) -> Store:
    """Return the run's store of a split, open for reading."""
    return Store.open(plan.step("harvest").folder / f"{split}.zarr")


def features(plan: Plan) -> Tensor | None:
    """Return a toy's true features, `[num_features, d_in]`; None for an LM."""
    if plan.run.toy is None:
        return None
    return torch.from_numpy(np.load(plan.step("harvest").folder / _FEATURES))


def _body(work: stage.Work) -> None:
    (step,) = work.pending
    plan, target = work.plan, work.folder(step)
    source = _lm_source(plan) if plan.run.toy is None else _toy_source(plan)
    settings = plan.run.store
    layout = Layout(
        ctx=source.rows["train"].tokens.shape[1],
        widths=source.widths,
        dtype=settings.dtype,
        chunk_bytes=int(settings.chunk_mib * _MIB),
        codec=settings.codec,
        provenance=source.provenance,
    )
    needed = sum(layout.store_bytes(len(rows.tokens)) for rows in source.rows.values())
    work.check_room(needed)
    known: dict[str, artifacts.File] = {}
    with interruption.watched() as asked:
        for split in SPLITS:
            known |= _write_split(plan, target, split, source, layout, asked)
    if plan.run.toy is not None:
        with durable.replacing(target / _FEATURES) as aside, aside.open("wb") as file:
            np.save(file, toy.features(plan.run.toy).numpy())
    forget_commits(target)
    work.commit(step, known)


def _write_split(
    plan: Plan,
    target: Path,
    split: Split,
    source: Source,
    layout: Layout,
    asked: Callable[[], bool],
) -> dict[str, artifacts.File]:
    rows = source.rows[split]
    mask, dtype = source.masks[split].reshape(-1), plan.run.store.dtype
    writer = StoreWriter(
        target,
        split,
        layout,
        tokens=np.asarray(rows.tokens),
        document=np.asarray(rows.document),
        mask=mask,
    )
    missing = writer.missing()
    began, done = time.monotonic(), writer.num_chunks - len(missing)
    start = done * layout.chunk_seqs() * layout.ctx
    with progress.shown(f"harvest {split}", len(mask), "tokens", start) as show:
        for index in missing:
            if asked():
                raise interruption.Interrupted("asked to stop while harvesting")
            sequences = writer.sequences(index)
            tokens = np.array(rows.tokens[sequences])
            try:
                hooks = source.readers[split](tokens, sequences.start)
                chunk = {hook: _stored(x, dtype) for hook, x in hooks.items()}
            except library.RowError as error:
                error.locate(split, writer.rows(index).start)
                raise
            writer.write_chunk(index, chunk)
            written = writer.rows(index).stop
            seconds = max(time.monotonic() - began, 1e-9)
            rate = (written - start) * sum(layout.widths.values()) / seconds / _MIB
            show(written, f"{rate * torch_dtype(layout.dtype).itemsize:,.1f} MiB/s")
    known = _finish(plan, writer, layout, mask)
    get_run_logger().info(
        "harvest: %s %s tokens in %.1f s",
        f"{len(mask):,}",
        split,
        time.monotonic() - began,
    )
    return known


def _stored(x: Tensor, dtype: Dtype) -> HookChunk:
    """Return a chunk in the stored dtype, with the norms of what is stored."""
    values = library.to_store(x, dtype)
    return HookChunk(values, library.norms(as_tensor(values, dtype)))


def _finish(
    plan: Plan, writer: StoreWriter, layout: Layout, mask: npt.NDArray[np.uint8]
) -> dict[str, artifacts.File]:
    """Set the high-norm bit from all norms, then reduce statistics in chunk order."""
    ratio = plan.run.store.high_norm_ratio
    full = mask.copy()
    for hook in layout.widths:
        high = library.high_norm_rows(writer.norms(hook), mask, ratio)
        full[high] |= MASK_HIGH_NORM
    vectors: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for hook in layout.widths:
        parts = []
        for index in range(writer.num_chunks):
            x = as_tensor(writer.read_chunk(hook, index), layout.dtype)
            parts.append(library.chunk_statistics(x, full[writer.rows(index)]))
        total = library.reduce_statistics(parts)
        vectors[hook] = {"mean": total.mean.numpy(), "variance": total.variance.numpy()}
        scalars[hook] = {
            "count": total.count,
            "mean_squared_norm": total.mean_squared_norm,
            "max_abs": total.max_abs,
            "high_norm_rows": int((full & MASK_HIGH_NORM > 0).sum()),
        } | library.norm_quantiles(writer.norms(hook), full)
    return writer.finish(full, vectors, scalars)


def _lm_source(plan: Plan) -> Source:
    config = plan.run.harvest
    assert config is not None
    model = lm.load(plan, dtype=config.lm_dtype)
    for hook in config.hooks:
        model.check_hook(hook)

    def read(tokens: npt.NDArray[np.int32], first: int) -> Mapping[str, Tensor]:
        return library.harvest_chunk(
            model, tokens, config.hooks, batch_seqs=config.batch_seqs
        )

    rows: dict[Split, Rows] = {split: corpus.read(plan, split) for split in SPLITS}
    corpus_step, lm_step = plan.step("corpus"), plan.step("lm")
    return Source(
        rows=rows,
        widths={hook: model.d_in(hook) for hook in config.hooks},
        masks={
            split: library.mask_rows(np.asarray(found.tokens), model.special_ids())
            for split, found in rows.items()
        },
        provenance={
            "lm": lm_step.section,
            "lm_key": lm_step.key,
            "lm_dtype": config.lm_dtype,
            "lm_processing": "none",
            "corpus": corpus_step.section,
            "corpus_key": corpus_step.key,
        },
        readers=dict.fromkeys(SPLITS, read),
    )


def _toy_source(plan: Plan) -> Source:
    config = plan.run.toy
    assert config is not None
    rows: dict[Split, Rows] = {}
    readers: dict[Split, Reader] = {}
    for split, count in zip(
        SPLITS, (config.num_tokens, config.num_eval_tokens), strict=True
    ):
        num_seqs = -(-count // config.ctx)
        # A document at a time, so that no split is held whole; drawn again to store.
        strongest = [
            toy.sample(
                config, split=split, start=index * config.ctx, num=config.ctx
            ).strongest
            for index in range(num_seqs)
        ]
        rows[split] = Rows(
            torch.stack(strongest).to(torch.int32).numpy(),
            np.repeat(np.arange(num_seqs, dtype=np.int64)[:, None], config.ctx, axis=1),
        )
        readers[split] = _toy_reader(config, split)
    return Source(
        rows=rows,
        widths={TOY_HOOK: config.d_in},
        masks={k: np.zeros(found.tokens.shape, np.uint8) for k, found in rows.items()},
        provenance={"toy": config.model_dump(mode="json")},
        readers=readers,
    )


def _toy_reader(config: Toy, split: Split) -> Reader:
    def read(tokens: npt.NDArray[np.int32], first: int) -> Mapping[str, Tensor]:
        drawn = toy.sample(
            config, split=split, start=first * config.ctx, num=tokens.size
        )
        return {TOY_HOOK: drawn.x}

    return read
