"""Places in a bucket, through obstore; what it refuses is told in one line."""

import contextlib
import errno
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import obstore.store
import zarr.storage
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from typing_extensions import Buffer
from zarr.storage import StoreLike

from storage.objects import Entry, PlaceError

SCHEMES = ("s3", "gs", "az", "memory")
# Below this an object is sent in one request, for which its parts are joined.
_ONE_REQUEST_BYTES = 8 << 20
# No piece can be put on a condition, so what is created goes up in one request, and
# every kind of bucket takes one of this size (Azure 4.9 GiB, S3 5 GiB, GCS more).
_LARGEST_CREATE_BYTES = 4 << 30
_AT_ONCE = 4
_LIST_PAGE = 1000
_REFUSED = (PermissionDeniedError, UnauthenticatedError)
# In what lists and S3 say; obstore has no kind of error for them.
_FORBIDDEN = "403 Forbidden"
_NO_BUCKET = "NoSuchBucket"


class BucketPlace:
    """A prefix of a bucket, or of any other store of obstore's."""

    def __init__(
        self, store: obstore.store.ObjectStore, prefix: str, *, url: str
    ) -> None:
        """Name the prefix below the store's own; `url` is that of the prefix."""
        self._store = store
        self._prefix = prefix
        self._url = url

    def __repr__(self) -> str:
        """Return the URL."""
        return f"BucketPlace({self._url!r})"

    @property
    def url(self) -> str:
        """Return the URL of the prefix."""
        return self._url

    def put(self, name: str, *parts: Buffer) -> None:
        """Replace an object; large ones go up in pieces, and appear at the end."""
        few = sum(memoryview(part).nbytes for part in parts) <= _ONE_REQUEST_BYTES
        with self._explained(name, "write"):
            self._store.put(self._at(name), b"".join(parts) if few else list(parts))

    def put_all(self, objects: Mapping[str, Sequence[Buffer]]) -> None:
        """Put several objects, some at a time, since each is a wait for an answer."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            waiting = [pool.submit(self.put, n, *p) for n, p in objects.items()]
        for one in waiting:
            one.result()

    def create(self, name: str, *parts: Buffer) -> bool:
        """Put an object unless there is one; return whether there was none.

        Raises:
            PlaceError: it is too large for one request.
        """
        size = sum(memoryview(part).nbytes for part in parts)
        if size > _LARGEST_CREATE_BYTES:
            raise PlaceError(
                f"{self._url}/{name}: has {size:,} bytes, and a bucket takes at most "
                f"{_LARGEST_CREATE_BYTES:,} at once; lower store.shard_chunks or "
                "store.chunk_mib"
            )
        with self._explained(name, "write"):
            try:
                # A copy: what is handed over in parts would only be referred to, and
                # may change or be unmapped before it has gone.
                self._store.put(
                    self._at(name),
                    b"".join(parts),
                    mode="create",
                    use_multipart=False,
                )
            except AlreadyExistsError:
                return False
        return True

    def get(self, name: str) -> bytes:
        """Return the bytes of an object."""
        with self._explained(name):
            return self._store.get(self._at(name)).bytes().to_bytes()

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Return the bytes from `start`, fewer than `length` if the object ends."""
        with self._explained(name):
            try:
                found = self._store.get_range(
                    self._at(name), start=start, length=length
                )
            except GenericError:
                # A range behind the end, which each kind of bucket tells otherwise.
                if start < self._store.head(self._at(name))["size"]:
                    raise
                return b""
            return found.to_bytes()

    def size(self, name: str) -> int | None:
        """Return the bytes of an object, None if there is none."""
        try:
            with self._explained(name):
                return self._store.head(self._at(name))["size"]
        except FileNotFoundError:
            return None

    def list(self, prefix: str) -> list[Entry]:
        """Return every object below a prefix, sorted."""
        above = f"{self._prefix}/" if self._prefix else ""
        with self._explained(prefix):
            pages = self._store.list(self._at(prefix), chunk_size=_LIST_PAGE)
            return sorted(
                Entry(found["path"].removeprefix(above), found["size"])
                for page in pages
                for found in page
            )

    def delete(self, *names: str) -> None:
        """Remove objects, many in a request where the bucket can."""
        if not names:
            return
        paths = [self._at(name) for name in names]
        with self._explained(names[0], "delete"):
            try:
                self._store.delete(paths)
            except FileNotFoundError as error:
                if _NO_BUCKET in str(error):
                    raise
                # Some buckets stop at the first that is not there.
                for path in paths:
                    with contextlib.suppress(FileNotFoundError):
                        self._store.delete(path)

    def sweep(self, prefix: str) -> None:
        """Do nothing: a bucket shows no object before it is whole."""

    def child(self, name: str) -> "BucketPlace":
        """Return the prefix below this one."""
        return BucketPlace(self._store, self._at(name), url=f"{self._url}/{name}")

    def path(self, name: str) -> None:
        """Return None: objects of a bucket are no local files."""

    def zarr_store(self) -> StoreLike:
        """Return the prefix as a store that plain Zarr reads."""
        store = zarr.storage.ObjectStore(self._store, read_only=True)
        return zarr.storage.StorePath(store, self._prefix)

    def _at(self, name: str) -> str:
        return "/".join(part for part in (self._prefix, name.strip("/")) if part)

    @contextlib.contextmanager
    def _explained(self, name: str, doing: str = "read") -> Iterator[None]:
        """Turn obstore's errors, several lines each, into ours.

        Theirs name the endpoint but no credentials; they stay as the cause.
        """
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            is_missing = isinstance(error, FileNotFoundError)
            # What is not there to be written to is the bucket.
            if _NO_BUCKET in str(error) or (is_missing and doing == "write"):
                what = "there is no such bucket; make it, or name another"
            elif is_missing:
                raise FileNotFoundError(
                    errno.ENOENT, os.strerror(errno.ENOENT), f"{self._url}/{name}"
                ) from None
            elif isinstance(error, _REFUSED) or _FORBIDDEN in str(error):
                what = (
                    f"permission denied to {doing}; check the credentials in the "
                    "environment, and what they allow"
                )
            else:
                what = (
                    f"cannot be reached ({type(error).__name__}); check the network, "
                    "the region and endpoint, and the credentials in the environment"
                )
            raise PlaceError(f"{self._url}: {what}") from error


def open_bucket(url: str) -> BucketPlace:
    """Return the place of a URL such as `s3://bucket/prefix`.

    Raises:
        PlaceError: the URL is of another kind, or the environment does not fit it.
    """
    scheme, _, rest = url.partition("://")
    if "@" in rest or "?" in rest:
        raise PlaceError(
            f"{scheme}://...: found credentials in the URL; set them in environment "
            "variables, and name only the bucket and a prefix"
        )
    bucket, _, prefix = rest.strip("/").partition("/")
    if scheme not in SCHEMES:
        raise PlaceError(
            f"{url}: found a URL of scheme {scheme!r}; name a folder, or a bucket by "
            f"{', '.join(f'{name}://' for name in SCHEMES)}"
        )
    if not bucket:
        raise PlaceError(f"{url}: names no bucket; write {scheme}://bucket/prefix")
    root = f"{scheme}://{bucket}"
    store = _memory(bucket) if scheme == "memory" else _connect(root)
    return BucketPlace(store, prefix, url=f"{root}/{prefix}".rstrip("/"))


def _connect(url: str) -> obstore.store.ObjectStore:
    try:
        return obstore.store.from_url(url)
    except (BaseError, ValueError) as error:
        # Not as the cause: it may quote what a variable is set to.
        raise PlaceError(
            f"{url}: cannot be used as it is set in the environment "
            f"({type(error).__name__}); check its name, and the region, endpoint and "
            "credentials"
        ) from None


@functools.cache
def _memory(name: str) -> obstore.store.MemoryStore:
    return obstore.store.MemoryStore()
