"""Share a harvest among processes of this machine, or of a Ray cluster."""

import ctypes
import functools
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal, NamedTuple

import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.futures import PrefectFuture

from storage.places import open_place
from storage.provenance import first_difference
from storage.store_writer import Layout, StoreWriter, has_begun
from tasks import harvesting, interruption, stage
from tasks.activations import Opened, open_sources
from tasks.corpus import SPLITS, Split
from tasks.harvesting import Progress, Settings
from tasks.interruption import Interrupted
from tasks.plan import Plan
from trilemma import allocation
from trilemma.config.stages import Compute

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_POLL_SECONDS = 0.2
_LOOK_SECONDS = 5.0
# A pipe holds 64 KiB, and in the end nobody reads it.
_LONGEST_TOLD = 8_000
_STOP_SECONDS = 60
# A fork would take CUDA, threads and locks along.
START: Literal["spawn", "fork"] = "spawn"


class Share(NamedTuple):
    """What one worker needs to do its share of a harvest."""

    plan: Plan
    url: str
    """Of the artifact's place."""
    layout: Layout
    settings: Settings
    num_seqs: dict[Split, int]
    worker: int
    num_workers: int
    threads: int
    """CPU threads; they decide the order of sums, so every worker has as many."""

    def writer(self, split: Split) -> StoreWriter:
        """Return the writer of a split, which keeps what is committed."""
        return StoreWriter(
            open_place(self.url), split, self.layout, num_seqs=self.num_seqs[split]
        )


class WorkerError(ValueError):
    """A worker was killed before it had done its share."""


def count(compute: Compute) -> int:
    """Return how many workers a run asks for."""
    if compute.devices is not None:
        return compute.devices
    if compute.runner == "local" and compute.device != "cpu":
        return max(1, torch.cuda.device_count())
    return 1


def crowding(compute: Compute, *, threads: int, cores: int) -> str | None:
    """Return a line on workers of this machine with more threads than it has cores.

    Threads are not divided among them, since bytes depend on how many there are.
    """
    num_workers = count(compute)
    is_crowded = num_workers > 1 and num_workers * threads > cores
    if not is_crowded or compute.runner == "ray":
        return None
    return (
        f"harvest: {num_workers} workers of {threads} threads each share {cores} "
        f"cores; compute.threads={max(1, cores // num_workers)} may be faster, and "
        "gives the bytes of so many threads"
    )


def work(
    share: Share,
    opened: Opened,
    *,
    asked: Callable[[], bool],
    report: Callable[[Split, Progress], None],
) -> None:
    """Do a share: harvest the missing groups of both splits that are this worker's."""
    for split in SPLITS:
        writer = share.writer(split)
        harvesting.write_groups(
            writer,
            opened.sources[split],
            share.settings,
            harvesting.share(writer, share.settings, share.worker, share.num_workers),
            split=split,
            asked=asked,
            report=functools.partial(report, split),
        )


def work_together(
    share: Share, *, asked: Callable[[], bool], look: Callable[[int], None]
) -> None:
    """Do all shares in processes of this machine, each with a GPU of its own.

    `look` is called now and then while they work, with how many parts wait for the
    disk in all of them.

    Raises:
        Interrupted: `asked` says so; the workers have stopped at a committed part.
        ValueError: what a worker raised for a user's mistake, a full disk, too little
            memory.
        WorkerError: a worker was killed.
        RuntimeError: a bug in a worker, with its traceback.
    """
    # Typed as a context without processes; both kinds have them.
    context: Any = multiprocessing.get_context(START)
    started: list[_Worker] = []
    watch = _Watch(asked, lambda: look(sum(worker.queued for worker in started)))
    try:
        for number in range(share.num_workers):
            here, there = context.Pipe(duplex=False)
            process = context.Process(
                target=_process,
                args=(share._replace(worker=number), there, os.getpid()),
                daemon=True,
            )
            process.start()
            there.close()
            started.append(_Worker(number, process, here))
        is_going_on = True
        while is_going_on:
            watch.pause()
            # Asked first, so that what the last one told is listened to.
            is_going_on = any(worker.process.is_alive() for worker in started)
            for worker in started:
                worker.listen()
    finally:
        for worker in started:
            worker.process.terminate()
        for worker in started:
            worker.process.join(_STOP_SECONDS)
            worker.process.kill()


def work_on_ray(
    share: Share,
    compute: Compute,
    *,
    asked: Callable[[], bool],
    look: Callable[[], None],
) -> None:
    """Do all shares as Prefect tasks on a Ray cluster, which shares the home.

    A worker asks for a GPU if `compute.device` is cuda, or if it is auto and this
    process has one.

    Raises:
        Interrupted: `asked` says so; what is committed stays.
        ValueError: Prefect's Ray runner is not installed, or what a worker raised.
    """
    try:
        import ray
        from prefect_ray import RayTaskRunner
        from prefect_ray.context import remote_options
    except ImportError as error:
        raise ValueError(
            "compute.runner: ray needs prefect-ray; pip install -e '.[ray]'"
        ) from error
    wants_gpu = compute.device == "cuda" or (
        compute.device == "auto" and torch.cuda.is_available()
    )
    runner = RayTaskRunner(
        address=compute.ray_address,
        init_kwargs=_local_cluster(share) if compute.ray_address is None else {},
    )
    watch = _Watch(asked, look)

    @flow(name="harvest-on-ray", task_runner=runner)
    def together() -> None:
        with remote_options(num_gpus=int(wants_gpu)):
            futures = [
                _task.submit(share._replace(worker=number))
                for number in range(share.num_workers)
            ]
        _wait_for_all(
            futures,
            pause=watch.pause,
            cancel=lambda future: ray.cancel(future.wrapped_future),
        )

    together()


def _wait_for_all(
    futures: Sequence[PrefectFuture[None]],
    *,
    pause: Callable[[], None],
    cancel: Callable[[Any], None],
) -> None:
    """Wait until all have ended; raise what one failed for as soon as it has.

    The others are cancelled then, and when `pause` raises. `cancel` takes a future of
    its task runner's own kind, hence `Any`.
    """
    waiting = list(futures)
    try:
        while waiting:
            pause()
            for future in list(waiting):
                # Of a worker that was killed the server knows nothing, but this does.
                future.wait(0)
                if future.state.is_final():
                    waiting.remove(future)
                    future.result()
    except BaseException:
        for future in waiting:
            cancel(future)
        raise


class _Watch:
    """Looks now and then, and stops what goes on when somebody asks for it."""

    def __init__(self, asked: Callable[[], bool], look: Callable[[], None]) -> None:
        self._asked = asked
        self._look = look
        self._last = time.monotonic()

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the driver's own behind: Prefect sends its flow along with each task.

        What asks and looks holds locks, which no other process can have. There it is
        `bool`, which says no.
        """
        return _Watch, (bool, bool)

    def pause(self) -> None:
        """Wait a moment; raise Interrupted if asked to stop."""
        if self._asked():
            raise Interrupted("asked to stop while harvesting")
        time.sleep(_POLL_SECONDS)
        if time.monotonic() - self._last > _LOOK_SECONDS:
            self._look()
            self._last = time.monotonic()


class _Failure(NamedTuple):
    """What a worker tells before it ends for an error."""

    is_users: bool
    text: str


class _Worker:
    """A process that does a share, and the pipe by which it tells of itself."""

    def __init__(self, number: int, process: BaseProcess, pipe: Connection) -> None:
        self.process = process
        self.queued = 0
        self._number = number
        self._pipe = pipe
        self._is_telling = True

    def listen(self) -> None:
        """Take in what the worker told; raise what it failed for.

        A pipe that is closed says nothing: a worker that has done its share closes it
        well before its process ends. How the process ended decides.
        """
        # Read first: what it told before it ended is in the pipe by then.
        status = self.process.exitcode
        while self._is_telling and self._pipe.poll():
            try:
                told = self._pipe.recv()
            except EOFError:
                self._is_telling = False
                self.queued = 0
            else:
                self._take(told)
        if status:
            raise WorkerError(
                f"harvest: worker {self._number} ended with status {status}; if it was "
                "killed for memory, lower compute.devices or harvest.batch_memory_mib"
            )

    def _take(self, told: Progress | _Failure) -> None:
        if isinstance(told, Progress):
            self.queued = told.queued
        elif told.is_users:
            raise ValueError(told.text)
        else:
            raise RuntimeError(f"harvest: worker {self._number} failed: {told.text}")


def _local_cluster(share: Share) -> dict[str, Any]:
    """Return settings of a temporary cluster, whose workers report to our server."""
    with get_client(sync_client=True) as client:
        server = {"PREFECT_API_URL": str(client.api_url)}
    return {
        "num_cpus": share.num_workers,
        "include_dashboard": False,
        "runtime_env": {"env_vars": server},
    }


@task(name="harvest-share", cache_policy=NO_CACHE, retries=0, persist_result=False)
def _task(share: Share) -> None:
    _do(share, asked=lambda: False, report=lambda progress: None)


def _do(
    share: Share, *, asked: Callable[[], bool], report: Callable[[Progress], None]
) -> None:
    _check_home(share)
    torch.set_num_threads(share.threads)
    opened = open_sources(share.plan, share.settings.batch_seqs)
    _check_same(share, opened)
    with allocation.kept():
        work(share, opened, asked=asked, report=lambda _, progress: report(progress))


def _check_home(share: Share) -> None:
    """Check that the stores are here which the run has begun.

    Raises:
        ValueError: they are not, so this node has another home.
    """
    place = open_place(share.url)
    for split in SPLITS:
        if not has_begun(place, split):
            raise ValueError(
                f"harvest: worker {share.worker} finds no {split} store in "
                f"{share.url}, where the run began one; the home must be shared by all "
                "nodes"
            )


def _check_same(share: Share, opened: Opened) -> None:
    """Check that this worker's activations are of the kind that the store tells.

    Raises:
        ValueError: they are of another LM, attention, library or width.
    """
    change = first_difference(
        {"provenance": opened.provenance, "widths": opened.widths},
        {"provenance": share.layout.provenance, "widths": share.layout.widths},
    )
    if change is not None:
        raise ValueError(
            f"harvest: worker {share.worker} has {change.leaf} {change.mine}, the run "
            f"has {change.theirs}; give all nodes the same libraries and devices"
        )


def _process(share: Share, pipe: Connection, parent: int) -> None:
    """Be a worker; tell the parent how it goes; end when the parent is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(share.worker % torch.cuda.device_count())
    try:
        with interruption.watched() as asked:
            _do(share, asked=asked, report=pipe.send)
    except Interrupted:
        sys.exit(0)
    except stage.EXPECTED as error:
        pipe.send(_Failure(True, str(error)[:_LONGEST_TOLD] or repr(error)))
        sys.exit(1)
    except Exception:
        pipe.send(_Failure(False, traceback.format_exc()[-_LONGEST_TOLD:]))
        sys.exit(1)
