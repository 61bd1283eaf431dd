"""The `harvest` stage: activations of an LM, or of a toy, into two stores."""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from torch import Tensor

from storage import artifacts, durable
from storage.places import Place
from storage.store import Store
from storage.store_writer import Layout, forget_commits
from tasks import finishing, interruption, progress, stage, workers
from tasks.activations import Opened, open_sources
from tasks.corpus import SPLITS, Split
from tasks.harvesting import Progress, Settings
from tasks.plan import Plan
from tasks.workers import Share
from trilemma import toys
from trilemma.config.stages import Compute

_FEATURES = "features.npy"
_MIB = 1 << 20
_ESTIMATE_SECONDS = 3.0


@task(name="harvest", cache_policy=NO_CACHE, retries=0, persist_result=False)
def harvest(plan: Plan, *, force: bool) -> State[stage.Outcome]:
    """Leave a store of training rows and one of held-out rows, with statistics."""
    return stage.perform(plan, plan.of("harvest"), _body, force=force)


def open_store(plan: Plan, split: str) -> Store:
    """Return the run's store of a split, open for reading where it lies."""
    place = plan.step("harvest").location.place
    return Store.open(place.child(f"{split}.zarr").url)


def features(plan: Plan) -> Tensor | None:
    """Return a toy's true features, `[num_features, d_in]`; None for an LM."""
    if plan.run.toy is None:
        return None
    return torch.from_numpy(np.load(plan.step("harvest").folder / _FEATURES))


def _body(work: stage.Work) -> None:
    (step,) = work.pending
    plan, target, place = work.plan, work.folder(step), work.place(step)
    opened = open_sources(plan, None)
    share = _share(plan, place, opened)
    _tell_sizes(work, share)
    if share.num_workers > 1 or plan.run.compute.runner == "ray":
        opened = opened.without_activations()
        torch.cuda.empty_cache()  # nothing where there is no GPU
    known: dict[str, artifacts.File] = {}
    with interruption.watched() as asked:
        _harvest(share, opened, plan.run.compute, asked)
        for split in SPLITS:
            finished = finishing.finish(
                share.writer(split),
                opened.sources[split],
                plan.run.store.high_norm_ratio,
                asked=asked,
            )
            known |= finished.files
            for hook, found in finished.statistics.items():
                _tell(split, hook, found)
    if plan.run.toy is not None:
        with durable.replacing(target / _FEATURES) as aside, aside.open("wb") as file:
            np.save(file, toys.features(plan.run.toy).numpy())
    work.commit(step, known)
    forget_commits(step.location.place)


def _share(plan: Plan, place: Place, opened: Opened) -> Share:
    settings = plan.run.store
    return Share(
        plan=plan,
        url=place.url,
        layout=Layout(
            ctx=opened.ctx,
            widths=opened.widths,
            dtype=settings.dtype,
            chunk_bytes=int(settings.chunk_mib * _MIB),
            codec=settings.codec,
            shard_chunks=settings.shard_chunks,
            provenance=opened.provenance,
        ),
        settings=Settings(opened.batch_seqs, settings.high_norm_ratio),
        num_seqs={split: opened.sources[split].num_seqs for split in SPLITS},
        worker=0,
        num_workers=workers.count(plan.run.compute),
        threads=torch.get_num_threads(),
    )


def _tell_sizes(work: stage.Work, share: Share) -> None:
    """Say what is to be written and whether there is room, before anything runs."""
    crowding = workers.crowding(
        work.plan.run.compute, threads=share.threads, cores=os.cpu_count() or 1
    )
    if crowding is not None:
        get_run_logger().warning(crowding)
    sizes = {
        split: share.layout.store_bytes(num) for split, num in share.num_seqs.items()
    }
    written = share.layout.sequence_bytes() * sum(
        share.writer(split).num_committed_rows() // share.layout.ctx for split in SPLITS
    )
    # How much a codec saves is known when it is done; a full disk is told then.
    if work.plan.home.bucket is None and share.layout.codec == "none":
        work.check_room(max(sum(sizes.values()) - written, 0))
    get_run_logger().info(
        "harvest: %s of %s tokens in all, %s of them held out; %s there already; %s; "
        "%d sequences a batch, %d worker%s",
        _size(sum(sizes.values())),
        f"{sum(share.num_seqs.values()) * share.layout.ctx:,}",
        _size(sizes["eval"]),
        _size(written),
        _room(work.plan),
        share.settings.batch_seqs,
        share.num_workers,
        "" if share.num_workers == 1 else "s",
    )


def _harvest(
    share: Share, opened: Opened, compute: Compute, asked: Callable[[], bool]
) -> None:
    """Harvest what is missing, here or in workers, and show how far it has come."""
    writers = {split: share.writer(split) for split in SPLITS}
    row_bytes = share.layout.sequence_bytes() / share.layout.ctx
    total = sum(share.num_seqs.values()) * share.layout.ctx
    before = sum(writer.num_committed_rows() for writer in writers.values())
    began = time.monotonic()
    pace = _Pace(total - before)
    written: dict[str, int] = {}

    with progress.shown("harvest", total, "tokens", before) as show:

        def tell(rows: int, detail: str) -> None:
            rate = pace.rate(rows)
            show(before + rows, f"{rate * row_bytes / _MIB:,.1f} MiB/s{detail}")

        def report(split: Split, at: Progress) -> None:
            written[split] = at.rows
            tell(sum(written.values()), f", {at.queued} in the queue")

        def look(queued: int | None) -> None:
            now = sum(writer.num_committed_rows() for writer in writers.values())
            queue = "" if queued is None else f", {queued} in their queues"
            tell(now - before, f", {share.num_workers} workers{queue}")

        if compute.runner == "ray":
            workers.work_on_ray(share, compute, asked=asked, look=lambda: look(None))
        elif share.num_workers > 1:
            workers.work_together(share, asked=asked, look=look)
        else:
            workers.work(share, opened, asked=asked, report=report)
    seconds = time.monotonic() - began
    get_run_logger().info(
        "harvest: %s tokens in %.1f s (%s/s)",
        f"{total - before:,}",
        seconds,
        f"{(total - before) / max(seconds, 1e-9):,.0f}",
    )


class _Pace:
    """Rows a second since the first were written, told once when it is known."""

    def __init__(self, left: int) -> None:
        self._left = left
        self._first: tuple[float, int] | None = None
        self._is_told = False

    def rate(self, rows: int) -> float:
        """Return the rows a second, not counting how long the start took."""
        now = time.monotonic()
        if self._first is None:
            if rows:
                self._first = now, rows
            return 0.0
        began, before = self._first
        rate = (rows - before) / max(now - began, 1e-9)
        if not self._is_told and now - began > _ESTIMATE_SECONDS and rate:
            self._is_told = True
            get_run_logger().info(
                "harvest: %s tokens/s; about %.0f s left",
                f"{rate:,.0f}",
                (self._left - rows) / rate,
            )
        return rate


def _room(plan: Plan) -> str:
    if plan.home.bucket is not None:
        return f"to {plan.home.bucket.url}"
    return f"{_size(shutil.disk_usage(plan.home.path).free)} free"


def _tell(split: Split, hook: str, found: Mapping[str, Any]) -> None:
    lost = f"; int8 adds fvu {found['int8_fvu']:.2e}" if "int8_fvu" in found else ""
    get_run_logger().info(
        "harvest: %s %s: %s rows count, median norm %.3g, largest value %.3g, %.3f %% "
        "of rows have a high norm%s",
        split,
        hook,
        f"{found['count']:,}",
        found["norm_q50"],
        found["max_abs"],
        100 * found["high_norm_share"],
        lost,
    )


def _size(num_bytes: float) -> str:
    return f"{num_bytes / _MIB:,.1f} MiB"
