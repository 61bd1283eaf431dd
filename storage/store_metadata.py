"""What a finished store says of itself, where its manifest vouches for every word."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from storage import artifacts, layout
from storage.artifacts import File
from storage.chunk_reader import StoreError
from storage.places import Place


def read(place: Place, name: str) -> dict[str, dict[str, Any]]:
    """Return the attributes in each `zarr.json` of a store, by its name in the store.

    Args:
        place: of the artifact.
        name: of the store in it.

    Raises:
        StoreError: there is no store, it is unfinished work or of another version.
        storage.artifacts.ArtifactError: a file is missing or has another size.
        storage.places.PlaceError: a bucket cannot be read.
    """
    url = f"{place.url}/{name}"
    manifest = artifacts.read_manifest(place)
    if manifest is None:
        raise StoreError(
            f"{url}: found no finished store; run the harvest stage, and name the "
            "folder train.zarr or eval.zarr inside its artifact"
        )
    if f"{name}/{layout.METADATA}" not in manifest.files:
        raise StoreError(
            f"{url}: not in the manifest beside it; name train.zarr or eval.zarr"
        )
    artifacts.check_sizes(place, manifest)
    found = {
        file.removeprefix(f"{name}/"): _attributes(place, file, known)
        for file, known in manifest.files.items()
        if file.startswith(f"{name}/") and file.endswith(f"/{layout.METADATA}")
    }
    _check_format(url, found[layout.METADATA])
    return found


def _attributes(place: Place, name: str, known: File) -> dict[str, Any]:
    """Return the attributes in a `zarr.json`, which must be as the manifest says."""
    data = place.get(name)
    if hashlib.sha256(data).hexdigest() != known.sha256:
        raise StoreError(
            f"{place.url}/{name}: its bytes have changed; delete {place.url} and run "
            "the stage again"
        )
    attributes: dict[str, Any] = json.loads(data)["attributes"]
    return attributes


def _check_format(url: str, attributes: Mapping[str, Any]) -> None:
    if attributes.get("format") != layout.FORMAT:
        raise StoreError(f"{url}: is a Zarr group, but not an activation store")
    version = attributes.get("version")
    if version == layout.FORMAT_VERSION:
        return
    newer = isinstance(version, int) and version > layout.FORMAT_VERSION
    raise StoreError(
        f"{url}: found format version {version!r}; this version reads "
        f"{layout.FORMAT_VERSION}; "
        + ("update Trilemma" if newer else "run the harvest stage again")
    )
