"""W&B: training curves as they come, results at the end, a check of what it kept."""

import contextlib
import struct
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import wandb
import wandb.proto.wandb_internal_pb2 as protocol
from prefect.logging import get_run_logger

from tasks.plan import Plan, Step
from trilemma.training_record import StepRow

_BLOCK = 32_768
_HEADER = struct.Struct("<IHB")
_FILE_HEADER = 7
_SETTLE_SECONDS = 30.0
_POLL_SECONDS = 0.05
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


class TrackingError(ValueError):
    """The tracker did not keep what was logged."""


class Tracker(Protocol):
    """Where rows of a training curve go while an SAE trains."""

    def log(self, row: StepRow) -> None:
        """Log one row; its key `step` says where it stands."""


class _Silent:
    def log(self, row: StepRow) -> None:
        """Keep nothing: the run asks for no tracker, or it cannot be started."""


class _Wandb:
    def __init__(self, run: "wandb.Run") -> None:
        self._run = run

    def log(self, row: StepRow) -> None:
        self._run.log(named(row), step=row["step"])


def named(row: StepRow) -> dict[str, object]:
    """Return what a row says by W&B's names: `train/fvu`, `eval/fvu`; no gaps."""
    values: dict[str, object] = {}
    for key, value in row.items():
        if key != "step" and value is not None:
            is_held_out = key.startswith("eval_")
            name = key.replace("_", "/", 1) if is_held_out else f"train/{key}"
            values[name] = value
    return values


class Kept(NamedTuple):
    """What an offline W&B run holds on disk."""

    history_rows: int
    artifacts: tuple[str, ...]
    finished: bool


@contextlib.contextmanager
def opened(plan: Plan, step: Step, rows_logged: int) -> Iterator[Tracker]:
    """Give the tracker of one SAE's training, closed at the end.

    The W&B run id is the artifact's key, so a resumed training continues its run
    online, and offline leaves a second folder under the same id. Where W&B cannot be
    started, training goes on without it: the curve is in the artifact too.
    """
    if plan.run.sharing.tracker == "none":
        yield _Silent()
        return
    try:
        run = start(
            plan,
            run_id=step.key,
            name=f"{plan.run.name}/{step.name}",
            job="training",
            config=step.section,
        )
    except TrackingError as error:
        get_run_logger().warning("%s: its curve is not logged: %s", step.title, error)
        yield _Silent()
        return
    if rows_logged:
        get_run_logger().info(
            "%s: W&B run %s already holds %d rows", step.title, step.key, rows_logged
        )
    try:
        yield _Wandb(run)
    finally:
        run.finish()


def start(
    plan: Plan, *, run_id: str, name: str, job: str, config: Mapping[str, Any]
) -> "wandb.Run":
    """Return a new W&B run in the home's wandb folder.

    Raises:
        TrackingError: W&B cannot be started, for want of a key or a connection.
    """
    try:
        return _init(plan, run_id=run_id, name=name, job=job, config=config)
    except wandb.Error as error:
        text = " ".join(str(error).split())
        raise TrackingError(
            f"sharing: W&B cannot be started ({text}); run `wandb login`, or set "
            "sharing.mode=offline"
        ) from error


def _init(
    plan: Plan, *, run_id: str, name: str, job: str, config: Mapping[str, Any]
) -> "wandb.Run":
    sharing = plan.run.sharing
    # W&B appends its own folder "wandb" to the one it is given.
    run = wandb.init(
        project=sharing.project,
        entity=sharing.entity,
        mode=sharing.mode,
        id=run_id,
        name=name,
        group=plan.run.name,
        job_type=job,
        config=dict(config),
        dir=plan.home.path,
        resume="allow",
        reinit="create_new",
        settings=wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            x_disable_stats=True,
            save_code=False,
        ),
    )
    assert run is not None
    return run


def log_folder(
    run: "wandb.Run", name: str, kind: str, folder: Path, metadata: Mapping[str, Any]
) -> str:
    """Log a folder as an artifact and return its name; online, wait for the upload.

    Raises:
        TrackingError: the upload failed (W&B itself would say nothing).
    """
    artifact = wandb.Artifact(name, kind, metadata=dict(metadata))
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        artifact.add_file(str(path), name=path.relative_to(folder).as_posix())
    logged = run.log_artifact(artifact)
    if not run.offline:
        try:
            logged.wait()
        except (ValueError, wandb.Error) as error:
            raise TrackingError(
                f"sharing: W&B did not keep artifact {name!r} ({error}); check the "
                "connection, then run sharing again"
            ) from error
    return name


def log_table(run: "wandb.Run", name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Log a table, one row for each mapping; all have the same keys."""
    columns: list[str | int] = list(rows[0])
    table = wandb.Table(columns=columns, data=[list(row.values()) for row in rows])
    run.log({name: table})


def log_summary(run: "wandb.Run", values: Mapping[str, float]) -> None:
    """Log final values, which stand in the run's summary."""
    run.summary.update(dict(values))


def checked(run: "wandb.Run", mode: str, names: Sequence[str]) -> dict[str, Any]:
    """Return what a finished run keeps, after looking for every artifact in it.

    Raises:
        TrackingError: an offline log lacks an artifact, the table or its end.
    """
    folder = Path(run.dir).parent
    record = {"mode": mode, "run_id": run.id, "artifacts": sorted(names), "rows": 1}
    if mode == "online":
        return record | {"where": run.url}
    found = settled(folder)
    lost = sorted(set(names) - set(found.artifacts))
    if lost or not found.history_rows or not found.finished:
        raise TrackingError(
            f"{folder}: W&B lost {', '.join(lost) or 'rows'}; free disk space, then "
            "run sharing again"
        )
    return record | {"where": str(folder), "rows": found.history_rows}


def settled(folder: Path) -> Kept:
    """Return what a run keeps once its end is on the disk.

    `finish` may return while the other process of W&B is still writing.
    """
    deadline = time.monotonic() + _SETTLE_SECONDS
    while not (found := kept(folder)).finished and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return found


def kept(folder: Path) -> Kept:
    """Return what the `.wandb` file of an offline run holds; checks every record.

    Raises:
        TrackingError: there is no such file, or it is damaged.
    """
    paths = sorted(folder.glob("*.wandb"))
    if not paths:
        raise TrackingError(f"{folder}: found no W&B log; share the run again")
    rows, names, finished = 0, [], False
    for data in _records(paths[0]):
        record = protocol.Record.FromString(data)  # type: ignore[attr-defined]  # generated
        kind = record.WhichOneof("record_type")
        rows += kind == "history"
        finished |= kind == "exit"
        if kind == "artifact":
            names.append(record.artifact.name)
    return Kept(rows, tuple(sorted(names)), finished)


def _records(path: Path) -> Iterator[bytes]:
    """Yield the records of a file in LevelDB's log format, as W&B writes it."""
    data = path.read_bytes()
    at = _FILE_HEADER
    parts: list[bytes] = []
    while at + _HEADER.size <= len(data):
        room = _BLOCK - at % _BLOCK
        if room < _HEADER.size:
            at += room
            continue
        crc, size, kind = _HEADER.unpack_from(data, at)
        body = data[at + _HEADER.size : at + _HEADER.size + size]
        if len(body) < size:
            return  # still being written, or cut short by a kill
        if zlib.crc32(body, zlib.crc32(bytes([kind]))) & 0xFFFFFFFF != crc:
            raise TrackingError(f"{path}: damaged at byte {at}; share the run again")
        at += _HEADER.size + size
        parts.append(body)
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
            parts = []
        else:
            assert kind in (_FIRST, _MIDDLE)
