"""Artifacts: places named by their content's key, committed by a manifest."""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from storage import durable, locks, transfer
from storage.home import Home
from storage.places import Entry, LocalPlace, Place

MANIFEST = "MANIFEST.json"
RUN = "RUN.json"
FAILED = "FAILED.json"
BEGUN = "BEGUN.json"
COMMITS = ".commits"
_CHECKPOINTS = "checkpoints"
_SHOWN = 12


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

    def text(self) -> bytes:
        """Return the one text that stands in the manifest's file."""
        return durable.pretty_json(self.model_dump(mode="json")).encode()


class Environment(_Record):
    """Where and how long an artifact was made; never part of a digest."""

    seconds: float
    peak_memory_bytes: int
    device: str
    processor: str
    threads: int
    ranks: int = 1
    """Processes that trained together; absent in older records, which had one."""
    versions: dict[str, str]
    time: str


class Location(NamedTuple):
    """Where one artifact lies, and where this machine works on it."""

    home: Home
    stage: str
    key: str

    @property
    def folder(self) -> Path:
        """Return the local folder: the artifact itself, or a bucket's copy of it."""
        return self.home.path / self.stage / self.key

    @property
    def place(self) -> Place:
        """Return where the committed artifact lies."""
        if self.home.bucket is None:
            return LocalPlace(self.folder)
        return self.home.bucket.child(f"{self.stage}/{self.key}")

    @property
    def lock(self) -> Path:
        """Return the lock file, which outlives the folder."""
        return self.home.path / self.stage / ".locks" / self.key

    @property
    def old(self) -> Path:
        """Return where the artifact waits while its successor takes its place."""
        return self.home.path / self.stage / f".old-{self.key}"

    @property
    def aside(self) -> Path:
        """Return the folder in which a forced repetition works."""
        return self.home.path / self.stage / f".again-{self.key}"


class Commit(NamedTuple):
    """The manifest that stands in a place, and who put it there."""

    manifest: Manifest
    is_first: bool
    """False if another run had committed the same bytes before."""


def key_of(
    stage: str, version: int, config: Mapping[str, Any], parents: Mapping[str, str]
) -> str:
    """Return the first 16 hex digits of SHA-256 over what decides the bytes."""
    text = durable.canonical_json(
        {"stage": stage, "version": version, "config": config, "parents": parents}
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_manifest(place: Place) -> Manifest | None:
    """Return the manifest of a committed artifact, or None for unfinished work.

    Raises:
        ArtifactError: there is a manifest, but it is not one.
    """
    try:
        text = place.get(MANIFEST)
    except FileNotFoundError:
        return None
    return parse_manifest(place, text)


def parse_manifest(place: Place, text: bytes) -> Manifest:
    """Return the manifest that a text is.

    Raises:
        ArtifactError: it is none, or of a version to come.
    """
    try:
        manifest = Manifest.model_validate_json(text)
        if not all(_is_below(name) for name in manifest.files):
            raise ValueError("names a file elsewhere")
        return manifest
    except ValueError as error:
        if isinstance(error, ValidationError) and _has_only_more(error):
            more = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise ArtifactError(
                f"{place.url}/{MANIFEST}: was written by a newer version (found "
                f"{more!r}); use that version"
            ) from error
        raise ArtifactError(
            f"{place.url}/{MANIFEST}: is not a manifest; delete {place.url} and run "
            "the stage again"
        ) from error


def read_environment(place: Place) -> Environment | None:
    """Return what RUN.json says, or None if there is none that can be read."""
    try:
        return Environment.model_validate_json(place.get(RUN))
    except (FileNotFoundError, ValidationError):
        return None


def commit(
    place: Place,
    folder: Path,
    *,
    stage: str,
    key: str,
    version: int,
    config: Mapping[str, Any],
    parents: Mapping[str, Parent],
    known: Mapping[str, File],
) -> Commit:
    """Put a finished folder in its place, the manifest last and at once.

    `known` are files that lie in the place already, hashed as they were written; only
    the others are read. Checkpoints are removed. Where the place is a bucket the
    others are put there too, where no file is replaced, and the first manifest wins:
    whoever comes later finds the same bytes in it, or an error.

    Raises:
        ArtifactError: a known file is not there, or other bytes were committed first.
    """
    shutil.rmtree(folder / _CHECKPOINTS, ignore_errors=True)
    _check_known(place, known)
    names = [entry.name for entry in own(LocalPlace(folder)) if entry.name not in known]
    files = dict(known)
    for name in names:
        path = folder / name
        durable.sync(path)
        files[name] = File(bytes=path.stat().st_size, sha256=durable.sha256(path))
    for below in _folders(folder, names):
        durable.sync(below)
    manifest = Manifest(
        stage=stage,
        key=key,
        version=version,
        config=dict(config),
        parents=dict(parents),
        files=files,
        digest=digest_of(files),
    )
    earlier = read_manifest(place)
    if earlier is None:
        if faults := transfer.upload(folder, place, names, files):
            raise ArtifactError(faults[0])
        if place.path(RUN) != folder / RUN and (folder / RUN).exists():
            place.put(RUN, (folder / RUN).read_bytes())
        if not place.create(MANIFEST, manifest.text()):
            earlier = read_manifest(place)
    if earlier is not None and earlier.digest != manifest.digest:
        raise ArtifactError(
            f"{place.url}: another run has committed digest "
            f"{earlier.digest[:_SHOWN]}, this one has {manifest.digest[:_SHOWN]}; run "
            f"again to go on with what is there, or delete {place.url} to make it anew"
        )
    if place.path(MANIFEST) != folder / MANIFEST:
        LocalPlace(folder).put(MANIFEST, (earlier or manifest).text())
    (folder / BEGUN).unlink(missing_ok=True)
    return Commit(earlier or manifest, earlier is None)


def fetch(location: Location, manifest: Manifest) -> int:
    """Bring the files of a bucket's artifact here and return the bytes that came.

    Stores are left out, since they are read where they lie. What is here of another
    artifact of that key is dropped. Each file is checked as it comes.

    Raises:
        ArtifactError: a file is not as the manifest says.
    """
    here, text = LocalPlace(location.folder), manifest.text()
    wanted = {k: v for k, v in manifest.files.items() if not _is_in_store(k)}
    with locks.holding([location.lock], on_wait=lambda path: None):
        here.sweep("")
        if here.size(MANIFEST) is None or here.get(MANIFEST) != text:
            shutil.rmtree(location.folder, ignore_errors=True)
            here.put(MANIFEST, text)
        lacking = {k: v for k, v in wanted.items() if here.size(k) != v.bytes}
        faults = transfer.download(location.place, location.folder, lacking)
    if faults:
        raise ArtifactError(
            f"{faults[0]}; delete {location.place.url} and run the stage again"
        )
    return sum(file.bytes for file in lacking.values())


def own(place: Place) -> list[Entry]:
    """Return the artifact's own files, sorted; not its manifest and other records."""
    records = (MANIFEST, RUN, FAILED, BEGUN)
    return [
        entry
        for entry in place.list("")
        if entry.name not in records and not is_commit_record(entry.name)
    ]


def is_commit_record(name: str) -> bool:
    """Return whether a file tells of a part of a store in the making.

    Such records may outlive the commit, if a kill comes before they are removed.
    """
    folder, _, rest = name.partition("/")
    return bool(rest) and folder.endswith(COMMITS)


def digest_of(files: Mapping[str, File]) -> str:
    """Return the SHA-256 over the sorted (path, sha256) pairs."""
    pairs = [[path, files[path].sha256] for path in sorted(files)]
    return hashlib.sha256(durable.canonical_json(pairs).encode()).hexdigest()


def check_sizes(place: Place, manifest: Manifest) -> None:
    """Check that every file is there with its size, without reading it.

    Raises:
        ArtifactError: naming the first file that is missing or has another size.
    """
    sizes = {entry.name: entry.bytes for entry in place.list("")}
    for name, file in manifest.files.items():
        if name not in sizes:
            raise ArtifactError(
                f"{place.url}/{name}: missing, but in the manifest; run verify, then "
                f"delete {place.url} and run the stage again"
            )
        if sizes[name] != file.bytes:
            raise ArtifactError(
                f"{place.url}/{name}: found {sizes[name]} bytes, the manifest says "
                f"{file.bytes}; delete {place.url} and run the stage again"
            )


def swap(location: Location) -> None:
    """Put the repetition that was made aside in the artifact's place."""
    shutil.rmtree(location.old, ignore_errors=True)
    if location.folder.exists():
        os.rename(location.folder, location.old)
    os.rename(location.aside, location.folder)
    durable.sync(location.folder.parent)
    shutil.rmtree(location.old, ignore_errors=True)


def recover(location: Location) -> None:
    """Finish a swap that a kill cut short, so that nothing committed is lost.

    A repetition that was committed aside but whose swap had not begun is removed.
    """
    if (location.folder / MANIFEST).exists():
        shutil.rmtree(location.old, ignore_errors=True)
        if (location.aside / MANIFEST).exists():
            shutil.rmtree(location.aside, ignore_errors=True)
    elif location.old.exists() and not location.folder.exists():
        is_whole = read_manifest(LocalPlace(location.aside)) is not None
        os.rename(location.aside if is_whole else location.old, location.folder)
        durable.sync(location.folder.parent)
        shutil.rmtree(location.old, ignore_errors=True)


def state_of(
    location: Location, manifest: Manifest | None, present: Mapping[str, Parent | None]
) -> str:
    """Return done, stale, partial, missing, running or failed.

    `manifest` is what is committed there. `present` is each parent's key and present
    digest by label, None if it has not been made; a parent that is gone does not make
    its children stale. Beside a bucket, running and failed are of this machine.
    """
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
    is_begun = location.folder.exists() or location.place.size(BEGUN) is not None
    return "partial" if is_begun else "missing"


def _check_known(place: Place, known: Mapping[str, File]) -> None:
    sizes = {entry.name: entry.bytes for entry in place.list("")} if known else {}
    for name, file in sorted(known.items()):
        if sizes.get(name) != file.bytes:
            found = "missing" if name not in sizes else f"found {sizes[name]} bytes"
            raise ArtifactError(
                f"{place.url}/{name}: {found}, although {file.bytes} bytes have been "
                "written; run the stage again"
            )


def _has_only_more(error: ValidationError) -> bool:
    return all(found["type"] == "extra_forbidden" for found in error.errors())


def _folders(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the folder, and those below it that lead to the files of these names."""
    below = {above for name in names for above in Path(name).parents}
    return [folder / path for path in sorted(below | {Path()})]


def _is_below(name: str) -> bool:
    return not {"", ".", ".."}.intersection(name.split("/"))


def _is_in_store(name: str) -> bool:
    return any(part.endswith(".zarr") for part in name.split("/")[:-1])
