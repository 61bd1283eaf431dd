"""Verification: every byte of an artifact, and its manifest, against what was made."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from storage import artifacts, transfer
from storage.artifacts import File, Location, Manifest, Parent
from storage.places import LocalPlace, Place

_SHOWN = 12


class Opened(NamedTuple):
    """An artifact whose manifest has been checked by itself."""

    location: Location
    manifest: Manifest
    faults: tuple[str, ...]
    """What is wrong with the manifest, one line each."""
    copies: dict[str, File]
    """Files of a bucket's artifact that this machine has brought here."""

    @property
    def bytes(self) -> int:
        """Return how many bytes the files of the artifact and their copies have."""
        files = (*self.manifest.files.values(), *self.copies.values())
        return sum(file.bytes for file in files)


def open_manifest(
    location: Location, present: Mapping[str, Parent | None]
) -> Opened | None:
    """Return an artifact to verify, or None for unfinished work.

    `present` is each parent's key and present digest, None where it is gone: only
    then could a changed byte in what the manifest says of that parent's digest stay
    unseen.

    Raises:
        ArtifactError: there is a manifest, but it is not one.
    """
    place = location.place
    try:
        text = place.get(artifacts.MANIFEST)
    except FileNotFoundError:
        return None
    manifest = artifacts.parse_manifest(place, text)
    where = f"{place.url}/{artifacts.MANIFEST}"
    faults = []
    if text != manifest.text():
        faults.append(f"{where}: its bytes have changed")
    key = artifacts.key_of(
        manifest.stage,
        manifest.version,
        manifest.config,
        {label: parent.key for label, parent in manifest.parents.items()},
    )
    said = (location.stage, location.key, location.key)
    if (manifest.stage, manifest.key, key) != said:
        faults.append(f"{where}: its key does not fit its place, config and parents")
    if artifacts.digest_of(manifest.files) != manifest.digest:
        faults.append(f"{where}: its digest does not fit its files")
    for label, parent in sorted(manifest.parents.items()):
        now = present.get(label)
        if now is not None and now != parent:
            faults.append(
                f"{where}: is stale or altered: {label} has digest "
                f"{now.digest[:_SHOWN]}, and had {parent.digest[:_SHOWN]}"
            )
    return Opened(location, manifest, tuple(faults), _copies(location, manifest))


def check(
    opened: Opened, *, threads: int, advance: Callable[[int], None]
) -> tuple[str, ...]:
    """Return one line for each fault of an artifact, reading all its files.

    Copies of a bucket's files are read too, since stages read those. Several files are
    read at once, each in blocks; `advance` is told from several threads of bytes as
    they are read.
    """
    place, files = opened.location.place, opened.manifest.files
    here = LocalPlace(opened.location.folder)
    return (
        *opened.faults,
        *transfer.check(place, files, threads=threads, advance=advance),
        *transfer.check(here, opened.copies, threads=threads, advance=advance),
        *_further(place, files),
    )


def _further(place: Place, files: Mapping[str, File]) -> list[str]:
    try:
        names = [entry.name for entry in artifacts.own(place)]
    except OSError as error:
        return [f"{place.url}: cannot be listed ({error.strerror or error})"]
    return [f"{place.url}/{n}: is not in the manifest" for n in names if n not in files]


def _copies(location: Location, manifest: Manifest) -> dict[str, File]:
    """Return the files that `artifacts.fetch` would take as they are."""
    here = LocalPlace(location.folder)
    is_fetched = (
        location.home.bucket is not None
        and here.size(artifacts.MANIFEST) is not None
        and here.get(artifacts.MANIFEST) == manifest.text()
    )
    if not is_fetched:
        return {}
    sizes = {entry.name: entry.bytes for entry in here.list("")}
    return {k: v for k, v in manifest.files.items() if sizes.get(k) == v.bytes}
