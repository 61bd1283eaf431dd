"""Artifacts: folders named by their content's key, committed by a manifest."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from storage import durable, locks

MANIFEST = "MANIFEST.json"
RUN = "RUN.json"
FAILED = "FAILED.json"
BEGUN = "BEGUN.json"
_ASIDE = ("checkpoints",)


class ArtifactError(ValueError):
    """An artifact that does not hold what its manifest says."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Record):
    """Size and hash of one file of an artifact."""

    bytes: int
    sha256: str


class Parent(_Record):
    """An artifact that was read: its key, and the digest it had."""

    key: str
    digest: str


class Manifest(_Record):
    """What made an artifact, from what, what it holds; its presence is the commit."""

    stage: str
    key: str
    version: int
    config: dict[str, Any]
    parents: dict[str, Parent]
    files: dict[str, File]
    digest: str


class Environment(_Record):
    """Where and how long an artifact was made; never part of a digest."""

    seconds: float
    peak_memory_bytes: int
    device: str
    processor: str
    threads: int
    versions: dict[str, str]
    time: str


class Location(NamedTuple):
    """Where one artifact lives in a home."""

    home: Path
    stage: str
    key: str

    @property
    def folder(self) -> Path:
        """Return the folder of the artifact."""
        return self.home / self.stage / self.key

    @property
    def lock(self) -> Path:
        """Return the lock file, which outlives the folder."""
        return self.home / self.stage / ".locks" / self.key

    @property
    def old(self) -> Path:
        """Return where the artifact waits while its successor takes its place."""
        return self.home / self.stage / f".old-{self.key}"

    @property
    def aside(self) -> Path:
        """Return the folder in which a forced repetition works."""
        return self.home / self.stage / f".again-{self.key}"


def key_of(
    stage: str, version: int, config: Mapping[str, Any], parents: Mapping[str, str]
) -> str:
    """Return the first 16 hex digits of SHA-256 over what decides the bytes."""
    text = durable.canonical_json(
        {"stage": stage, "version": version, "config": config, "parents": parents}
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a committed artifact, or None for unfinished work.

    Raises:
        ArtifactError: there is a manifest, but it is not one.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise ArtifactError(
            f"{path}: is not a manifest; delete {folder} and run the stage again"
        ) from error


def read_environment(folder: Path) -> Environment | None:
    """Return what RUN.json says, or None if there is none that can be read."""
    try:
        text = (folder / RUN).read_text(encoding="utf-8")
        return Environment.model_validate_json(text)
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def commit(
    folder: Path,
    *,
    stage: str,
    key: str,
    version: int,
    config: Mapping[str, Any],
    parents: Mapping[str, Parent],
    known: Mapping[str, File],
) -> Manifest:
    """Write the manifest of a finished folder, last and at once, and return it.

    `known` are files whose bytes have been hashed as they were written; only the
    others are read again. Files of other work in progress (checkpoints) are removed.

    Raises:
        ArtifactError: a known file is not there.
    """
    for name in _ASIDE:
        shutil.rmtree(folder / name, ignore_errors=True)
    files = {}
    for path in paths_of(folder):
        name = path.relative_to(folder).as_posix()
        if name in known:
            files[name] = known[name]
        else:
            durable.sync(path)
            files[name] = File(bytes=path.stat().st_size, sha256=durable.sha256(path))
    if lost := sorted(set(known) - set(files)):
        raise ArtifactError(
            f"{folder / lost[0]}: missing, although it has been written; run the stage "
            "again"
        )
    manifest = Manifest(
        stage=stage,
        key=key,
        version=version,
        config=dict(config),
        parents=dict(parents),
        files=files,
        digest=digest_of(files),
    )
    durable.write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    (folder / BEGUN).unlink(missing_ok=True)
    return manifest


def paths_of(folder: Path) -> list[Path]:
    """Return the artifact's own files, sorted; not its manifest, RUN.json or temps."""
    own = []
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            is_top = Path(root) == folder
            if (is_top and name in (MANIFEST, RUN, FAILED, BEGUN)) or name.endswith(
                ".tmp"
            ):
                continue
            own.append(Path(root) / name)
    return own


def digest_of(files: Mapping[str, File]) -> str:
    """Return the SHA-256 over the sorted (path, sha256) pairs."""
    pairs = [[path, files[path].sha256] for path in sorted(files)]
    return hashlib.sha256(durable.canonical_json(pairs).encode()).hexdigest()


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Check that every file is there with its size, without reading it.

    Raises:
        ArtifactError: naming the first file that is missing or has another size.
    """
    for name, file in manifest.files.items():
        try:
            size = (folder / name).stat().st_size
        except FileNotFoundError:
            raise ArtifactError(
                f"{folder / name}: missing, but in the manifest; run verify, then "
                f"delete {folder} and run the stage again"
            ) from None
        if size != file.bytes:
            raise ArtifactError(
                f"{folder / name}: found {size} bytes, the manifest says {file.bytes}; "
                f"delete {folder} and run the stage again"
            )


def damage(folder: Path, manifest: Manifest) -> list[str]:
    """Return one line for each file that is not as the manifest says; reads all."""
    lines = []
    for name, file in manifest.files.items():
        path = folder / name
        if not path.exists():
            lines.append(f"{path}: missing")
        elif path.stat().st_size != file.bytes:
            lines.append(f"{path}: {path.stat().st_size} bytes instead of {file.bytes}")
        elif durable.sha256(path) != file.sha256:
            lines.append(f"{path}: its bytes have changed")
    listed = set(manifest.files)
    for path in paths_of(folder):
        if path.relative_to(folder).as_posix() not in listed:
            lines.append(f"{path}: is not in the manifest")
    if digest_of(manifest.files) != manifest.digest:
        lines.append(f"{folder / MANIFEST}: its digest does not fit its files")
    return lines


def swap(location: Location) -> None:
    """Put the repetition that was made aside in the artifact's place."""
    shutil.rmtree(location.old, ignore_errors=True)
    if location.folder.exists():
        os.rename(location.folder, location.old)
    os.rename(location.aside, location.folder)
    durable.sync(location.folder.parent)
    shutil.rmtree(location.old, ignore_errors=True)


def recover(location: Location) -> None:
    """Finish a swap that a kill cut short, so that nothing committed is lost."""
    if location.folder.exists() or not location.old.exists():
        return
    whole = location.aside if read_manifest(location.aside) else location.old
    os.rename(whole, location.folder)
    durable.sync(location.folder.parent)
    shutil.rmtree(location.old, ignore_errors=True)


def state_of(location: Location, present: Mapping[str, Parent | None]) -> str:
    """Return done, stale, partial, missing, running or failed.

    `present` is each parent's key and present digest by label, None if it has not been
    made; a parent that is gone does not make its children stale.
    """
    manifest = read_manifest(location.folder)
    if manifest is not None:
        same = set(manifest.parents) == set(present) and all(
            parent is None or parent == manifest.parents[label]
            for label, parent in present.items()
        )
        return "done" if same else "stale"
    if locks.is_held(location.lock):
        return "running"
    if (location.folder / FAILED).exists():
        return "failed"
    return "partial" if location.folder.exists() else "missing"
