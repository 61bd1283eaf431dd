"""Published SAEs: what pins one before a run, and the SAE itself."""

from pathlib import Path
from typing import Any, NamedTuple

from trilemma import file_digests, hub
from trilemma.config.pretrained import Pretrained
from trilemma.formats import folders
from trilemma.sae import SAE


class Source(NamedTuple):
    """What makes a published SAE the one it is."""

    section: dict[str, Any]
    """For its key: what is read of a folder, or the commit (JSON values)."""
    commit: str | None
    """What its revision on the hub resolved to; None for a folder."""


def source(config: Pretrained) -> Source:
    """Return what pins an SAE; hashes a folder, or asks the hub for the commit."""
    if config.id is not None:
        commit = hub.resolve_sae(config.id, config.revision)
        where = {"id": config.id, "subfolder": config.subfolder, "commit": commit}
        return Source(where, commit)
    assert config.path is not None
    folder = Path(config.path)
    if not folder.is_dir():
        raise ValueError(
            f"saes.path: found no folder {config.path!r}; name one with an SAE"
        )
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    digests = zip(paths, file_digests.sha256(paths), strict=True)
    files: dict[str, Any] = {path.name: sha256 for path, sha256 in digests}
    if outside := folders.surroundings(folder):
        files[".."] = outside  # no file has this name
    return Source({"files": files}, None)


def load(
    config: Pretrained,
    *,
    commit: str | None,
    d_in: int,
    d_out: int | None,
    widths: tuple[int, ...] = (),
) -> SAE:
    """Return the SAE, downloaded where it is missing; `d_out` is a transcoder's.

    `widths` are those of the hooks of a crosscoder; empty for one hook.

    Raises:
        ValueError: it cannot be read, or is of activations of another width.
    """
    if config.id is not None:
        assert commit is not None
        folder = hub.download_sae(config.id, commit, subfolder=config.subfolder)
    else:
        folder = Path(config.path or "")
    sae = SAE.load(folder)
    if sae.is_transcoder != (d_out is not None):
        found, advice = (
            ("a transcoder", "name its target_hook")
            if sae.is_transcoder
            else ("an SAE that is no transcoder", "remove its target_hook")
        )
        raise ValueError(f"{folder}: found {found}; {advice}")
    if sae.widths != widths:
        found = f"widths {list(sae.widths)}" if sae.widths else "no crosscoder"
        wanted = f"widths {list(widths)}" if widths else "one hook"
        raise ValueError(
            f"{folder}: found {found}, but hook names {wanted}; name the hooks that it "
            "was trained on, in their order"
        )
    if sae.d_in != d_in:
        raise ValueError(
            f"{folder}: found an SAE of width {sae.d_in}, but the activations of "
            f"{config.hook} have {d_in}; name the hook that it was trained on"
        )
    if d_out is not None and sae.d_out != d_out:
        raise ValueError(
            f"{folder}: found a transcoder to a width of {sae.d_out}, but the "
            f"activations of {config.target_hook} have {d_out}; name the target_hook "
            "that it was trained on"
        )
    return sae
