"""The Hugging Face hub: names of models and data sets made exact, files fetched."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

import httpx2
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
)
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from trilemma.formats import sparsify

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SMALL_FILE = {"model": "config.json", "dataset": "README.md"}
_SECTION = {"model": "lm", "dataset": "corpus", "sae": "saes"}
_LOCALLY = {
    "model": "lm.kind=local",
    "dataset": "corpus.kind=text, jsonl or parquet",
    "sae": "a path",
}


def resolve(repo_id: str, revision: str, *, kind: Literal["model", "dataset"]) -> str:
    """Return the commit hash of a revision; a full hash stands for itself.

    Without a network, a branch or tag is looked up in the local cache.

    Raises:
        ValueError: there is no such thing, or nobody who could be asked.

    """
    if _COMMIT.fullmatch(revision):
        return revision
    return _snapshot(repo_id, revision, kind, (_SMALL_FILE[kind],)).name


def download_model(repo_id: str, commit: str, *, files: tuple[str, ...]) -> Path:
    """Return the local folder of a model's commit, downloaded where it is missing."""
    return _snapshot(repo_id, commit, "model", files)


def resolve_sae(repo_id: str, revision: str) -> str:
    """Return the commit hash of a revision of a repository that holds SAEs."""
    if _COMMIT.fullmatch(revision):
        return revision
    return _snapshot(repo_id, revision, "sae", (".gitattributes",)).name


def download_sae(repo_id: str, commit: str, *, subfolder: str | None) -> Path:
    """Return the local folder of an SAE in a commit, downloaded where it is missing.

    What its run says of it in the folder above comes too, lest it be read only if
    something else has fetched it.
    """
    if not subfolder:
        return _snapshot(repo_id, commit, "sae", ("*",))
    run = PurePosixPath(subfolder).parent / sparsify.RUN_FILE
    wanted = (f"{subfolder}/*", str(run))
    found = _snapshot(repo_id, commit, "sae", wanted, ignored=f"{subfolder}/*/*")
    return found / subfolder


class Uploader(Protocol):
    """What takes folders: the hub's own `HfApi`, or one that keeps them here."""

    def create_repo(self, repo_id: str, *, exist_ok: bool) -> object:
        """Make a repository, if there is none."""

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, path_in_repo: str, commit_message: str
    ) -> object:
        """Put a folder's files into a repository, in one commit."""


def push(
    folder: Path, repo_id: str, *, name: str, uploader: Uploader | None = None
) -> None:
    """Put a folder into a repository on the hub, under a name.

    The token is the hub's own affair; an error tells its kind alone, for its text may
    hold a request.
    """
    api = HfApi() if uploader is None else uploader
    try:
        with quiet():
            api.create_repo(repo_id, exist_ok=True)
            api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                path_in_repo=name,
                commit_message=f"Add {name}",
            )
    except (HFValidationError, httpx2.HTTPError, OSError) as error:
        raise ValueError(
            f"{repo_id}: the hub did not take {name!r} ({type(error).__name__}); check "
            "the name, the connection, and HF_TOKEN, which must be one that writes"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the hub's progress bars inside the block."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _snapshot(
    repo_id: str,
    revision: str,
    kind: str,
    files: tuple[str, ...],
    *,
    ignored: str = "*/*",
) -> Path:
    where = _SECTION[kind]
    try:
        with quiet():
            path = snapshot_download(
                repo_id,
                repo_type="dataset" if kind == "dataset" else "model",
                revision=revision,
                allow_patterns=list(files),
                ignore_patterns=[ignored],
            )
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"{where}.id: {repo_id!r} cannot be resolved without a network; set "
            f"{where}.revision to a commit hash in the local cache, or use "
            f"{_LOCALLY[kind]}"
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise ValueError(
            f"{where}.id: the hub gives no {kind} {repo_id!r} at revision "
            f"{revision!r} ({type(error).__name__}); check both, and HF_TOKEN where "
            "access is restricted"
        ) from error
    return Path(path)
