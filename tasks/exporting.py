"""SAEs of a run handed out: into a folder of a chosen format, or to the hub."""

from pathlib import Path

from tasks import training
from tasks.plan import Plan, Step
from trilemma import hub
from trilemma.formats.folders import Format
from trilemma.sae import SAE


def export(plan: Plan, name: str, folder: Path, *, file_format: Format) -> None:
    """Write one SAE of the run into a new or empty folder.

    Raises:
        ValueError: there is no such SAE yet, the folder has files, or the format has no
            words for the SAE.
    """
    sae = SAE.load(_trained(plan, name).folder / training.SAE_FOLDER)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: is not empty; name a new folder")
    sae.save(folder, file_format)


def push(
    plan: Plan, name: str, repo_id: str, *, uploader: hub.Uploader | None = None
) -> None:
    """Put one SAE of the run into a repository on the hub, in SAELens's layout."""
    folder = _trained(plan, name).folder / training.SAE_FOLDER
    hub.push(folder, repo_id, name=name, uploader=uploader)


def _trained(plan: Plan, name: str) -> Step:
    """Return the committed training of an SAE, its files on this machine."""
    names = [step.name for step in plan.of("training")]
    if name not in names:
        raise ValueError(f"found no SAE {name!r}; name one of {', '.join(names)}")
    step = plan.step("training", name)
    if step.manifest() is None:
        raise ValueError(f"{name}: is not trained yet; run the training stage first")
    step.fetch()
    return step
