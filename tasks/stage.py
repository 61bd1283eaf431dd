"""Perform one stage: lock, look whether it is done, work, commit, tell Prefect.

Beside a bucket all this happens in a local folder, and the commit puts the files
there. Unfinished work stays on the machine that does it, except for a store's chunks
and their commit records, which lie in the bucket from the start.
"""

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pydantic
import torch
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed
from safetensors import SafetensorError

from storage import artifacts, durable, home, locks
from storage.places import LocalPlace, Place, PlaceError
from tasks import environment
from tasks.interruption import Interrupted
from tasks.plan import VERSIONS, Plan, Step
from trilemma import allocation

# What a full disk, a damaged file, a small machine or a mistake raises: one line tells
# enough. Anything else is a bug of ours, whose traceback is wanted.
EXPECTED = (ValueError, OSError, MemoryError, torch.OutOfMemoryError, SafetensorError)
_SHOWN = 12


class Outcome(NamedTuple):
    """What became of the steps of a stage, by title."""

    cached: tuple[str, ...]
    made: tuple[str, ...]
    failed: dict[str, str]
    """Title to the reason, one line each."""


class Work:
    """The steps that a stage must do now, handed to its body."""

    def __init__(self, plan: Plan, pending: Sequence[Step], aside: set[str]) -> None:
        """Hold the pending steps; `aside` are the keys that are made again."""
        self.plan = plan
        self.pending = tuple(pending)
        self.failed: dict[str, str] = {}
        self.committed: set[str] = set()
        self._aside = aside
        self._began = time.monotonic()
        self._parents: dict[str, dict[str, artifacts.Parent]] = {}
        self._earlier: dict[str, float] = {}
        self._log = get_run_logger()

    def folder(self, step: Step) -> Path:
        """Return the folder to work in."""
        is_aside = step.key in self._aside
        return step.location.aside if is_aside else step.folder

    def place(self, step: Step) -> Place:
        """Return where a store is written: the folder to work in, or the bucket."""
        if self.plan.home.bucket is None:
            return LocalPlace(self.folder(step))
        return step.location.place

    def check_room(self, needed_bytes: int) -> None:
        """Check that so many bytes fit this machine's disk.

        Raises:
            storage.home.HomeError: they do not.
        """
        home.check_room(self.plan.home, needed_bytes)

    def begin(self, step: Step) -> None:
        """Prepare the folder: keep unfinished work only if its parents are the same."""
        folder = self.folder(step)
        parents = {
            label: parent
            for label, parent in step.present().items()
            if parent is not None
        }
        missing = set(step.parents) - set(parents)
        assert not missing, f"{step.title}: its parents {missing} are not committed"
        self._parents[step.key] = parents
        now = environment.read(self.plan.run.compute, 0.0, stage=step.stage)
        written = {k: v.model_dump(mode="json") for k, v in parents.items()}
        began = _read_begun(folder)
        if began is None or began["parents"] != written:
            if began is not None:
                self._log.warning(
                    "%s: was begun with another %s; unfinished work is removed",
                    step.title,
                    _changed(began["parents"], written),
                )
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            began = {"parents": written, "environment": now.model_dump(mode="json")}
            durable.write_json(folder / artifacts.BEGUN, began)
        LocalPlace(folder).sweep("")
        if self.plan.home.bucket is not None:
            _begin_there(step.location.place, written)
        before = artifacts.Environment.model_validate(began["environment"])
        self._earlier[step.key] = before.seconds
        for change in environment.differences(before, now):
            self._log.warning(
                "%s: resumed although %s; its bytes may differ", step.title, change
            )
        (folder / artifacts.FAILED).unlink(missing_ok=True)

    def fetch_parents(self) -> None:
        """Bring here what a bucket holds of the pending steps' parents."""
        parents = {p.key: p for step in self.pending for p in step.parents.values()}
        for parent in parents.values():
            began = time.monotonic()
            if size := parent.fetch():
                self._log.info(
                    "%s: fetched %.1f MiB from %s in %.1f s",
                    parent.title,
                    size / 2**20,
                    parent.location.place.url,
                    time.monotonic() - began,
                )

    def commit(
        self, step: Step, known: Mapping[str, artifacts.File] | None = None
    ) -> None:
        """Commit a step's folder; `known` are hashes of what its place already has."""
        folder = self.folder(step)
        now = environment.read(
            self.plan.run.compute, self._seconds(step), stage=step.stage
        )
        durable.write_json(folder / artifacts.RUN, now.model_dump(mode="json"))
        # Safetensors writes files that their owner alone can read.
        for path in folder.glob("*.safetensors"):
            shutil.copymode(folder / artifacts.RUN, path)
        manifest, is_first = artifacts.commit(
            self.place(step),
            folder,
            stage=step.stage,
            key=step.key,
            version=VERSIONS[step.stage],
            config=step.section,
            parents=self._parents[step.key],
            known=known or {},
        )
        if step.key in self._aside:
            before = step.manifest()
            same = before is not None and before.digest == manifest.digest
            artifacts.swap(step.location)
            self._log.info(
                "%s: made again; its bytes are %s",
                step.title,
                "the same" if same else "different",
            )
        if not is_first:
            self._log.info("%s: another run committed the same bytes", step.title)
        self.committed.add(step.key)
        size = sum(file.bytes for file in manifest.files.values())
        self._log.info(
            "%s: done in %.1f s, %.1f MiB, digest %s",
            step.title,
            now.seconds,
            size / 2**20,
            manifest.digest[:12],
        )

    def fail(self, step: Step, error: BaseException) -> None:
        """Tell that a step failed, and why, in one line; its siblings go on.

        The record beside its work is wanted, not needed: the disk may be what failed.
        """
        reason = one_line(error)
        self.failed[step.title] = reason
        self._log.error("%s: failed: %s", step.title, reason)
        record = {"error": type(error).__name__, "reason": reason}
        try:
            self.folder(step).mkdir(parents=True, exist_ok=True)
            durable.write_json(self.folder(step) / artifacts.FAILED, record)
        except OSError as full:
            self._log.warning("%s: that it failed is not kept: %s", step.title, full)

    def fail_rest(self, error: BaseException) -> None:
        """Fail every step that is neither committed nor failed for its own reason."""
        for step in self.pending:
            if step.title not in self.failed and step.key not in self.committed:
                self.fail(step, error)

    def pause(self) -> None:
        """Note the time spent, so that a resumed stage tells all of it."""
        for step in self.pending:
            folder = self.folder(step)
            try:
                began = _read_begun(folder)
                if began is not None:
                    began["environment"]["seconds"] = round(self._seconds(step), 3)
                    durable.write_json(folder / artifacts.BEGUN, began)
            except OSError as error:
                self._log.warning("%s: its time is not kept: %s", step.title, error)

    def _seconds(self, step: Step) -> float:
        return self._earlier.get(step.key, 0.0) + time.monotonic() - self._began


class _Found(NamedTuple):
    """What there is of the steps of a stage, under their locks."""

    states: dict[str, str]
    """By key."""
    aside: set[str]
    """Keys of what is committed, so it is made again aside."""
    refused: dict[str, Exception]
    """Key to why the step cannot be done: reading it failed, or a bucket keeps it."""


def perform(
    plan: Plan,
    steps: Sequence[Step],
    body: Callable[[Work], None],
    *,
    force: bool,
) -> State[Outcome]:
    """Bring steps to be done under their locks, and return the state for Prefect.

    The body commits each pending step, or fails it. A user's error ends as a state
    without a traceback; a bug is recorded and raised; an interruption leaves resumable
    work.
    """
    log = get_run_logger()
    steps = list({step.key: step for step in steps}.values())

    def waiting(path: Path) -> None:
        log.info("%s %s: waits for another run", path.parent.parent.name, path.name)

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(
                locks.holding([step.location.lock for step in steps], waiting)
            )
        except OSError as error:
            log.error("%s: cannot be locked: %s", steps[0].stage, error)
            reason = one_line(error)
            return _state((), (), {step.title: reason for step in steps})
        found = _look(steps, force=force)
        pending = [s for s in steps if force or found.states.get(s.key) != "done"]
        cached = tuple(s.title for s in steps if s not in pending)
        work = Work(
            plan, [s for s in pending if s.key not in found.refused], found.aside
        )
        for step in pending:
            if step.key in found.refused:
                work.fail(step, found.refused[step.key])
            elif found.states[step.key] == "stale":
                log.info("%s: is stale, its parents have changed", step.title)
        if work.pending:
            _work(work, body)
        made = tuple(s.title for s in work.pending if s.title not in work.failed)
        return _state(cached, made, work.failed)


def _look(steps: Sequence[Step], *, force: bool) -> _Found:
    found = _Found({}, set(), {})
    for step in steps:
        try:
            artifacts.recover(step.location)
            state = found.states[step.key] = step.state()
            if state == "stale" or (state == "done" and force):
                _check_replaceable(step, state)
                found.aside.add(step.key)
        except (artifacts.ArtifactError, PlaceError, OSError) as error:
            found.refused[step.key] = error
    return found


def _check_replaceable(step: Step, state: str) -> None:
    if step.location.home.bucket is not None:
        why = "is stale, its parents have changed" if state == "stale" else "is done"
        url = step.location.place.url
        raise artifacts.ArtifactError(
            f"{url}: {why}; on a bucket artifacts are not replaced, delete that prefix "
            "and run again"
        )


def _work(work: Work, body: Callable[[Work], None]) -> None:
    try:
        for step in work.pending:
            work.begin(step)
        work.fetch_parents()
        with allocation.kept():
            body(work)
    except Interrupted:
        work.pause()
        raise
    except Exception as error:
        work.pause()
        work.fail_rest(error)
        is_ours = isinstance(error, pydantic.ValidationError)
        if is_ours or not isinstance(error, EXPECTED):
            raise


def failure(titles: str, reason: str) -> str:
    """Return one line on a failure; a reason that begins with its stage says it."""
    is_said = reason.startswith((f"{titles}.", f"{titles}:"))
    return reason if is_said else f"{titles}: {reason}"


def _state(
    cached: tuple[str, ...], made: tuple[str, ...], failed: dict[str, str]
) -> State[Outcome]:
    outcome = Outcome(cached, made, failed)
    if failed:
        title, reason = next(iter(failed.items()))
        return Failed(message=failure(title, reason), data=outcome)
    if not made:
        return Completed(name="Cached", message=f"cached {len(cached)}", data=outcome)
    return Completed(message=f"made {len(made)}", data=outcome)


def one_line(error: BaseException) -> str:
    """Return what an error says, with its notes, in one line."""
    text = " ".join([str(error), *getattr(error, "__notes__", ())])
    return " ".join(text.split()) or type(error).__name__


def _begin_there(place: Place, parents: Mapping[str, Any]) -> None:
    """Note in a bucket what work begins from, or find the same noted.

    Many machines may do this for the same work at once.

    Raises:
        artifacts.ArtifactError: it began from something else.
    """
    text = durable.pretty_json({"parents": parents}).encode()
    if place.create(artifacts.BEGUN, text):
        return
    found = place.get(artifacts.BEGUN)
    if found == text:
        return
    if place.size(artifacts.MANIFEST) is not None:
        raise artifacts.ArtifactError(
            f"{place.url}: another run has committed this artifact; run again"
        )
    raise artifacts.ArtifactError(
        f"{place.url}: was begun with another "
        f"{_changed(json.loads(found)['parents'], parents)}; delete that prefix and "
        "run again"
    )


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the first parent that differs, with both digests where it has them."""
    label = min(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    digests = [found.get(label, {}).get("digest", "none") for found in (before, now)]
    return f"{label}, digest {digests[0][:_SHOWN]}, now {digests[1][:_SHOWN]}"


def _read_begun(folder: Path) -> dict[str, Any] | None:
    try:
        began = json.loads((folder / artifacts.BEGUN).read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    assert isinstance(began, dict)
    return began
