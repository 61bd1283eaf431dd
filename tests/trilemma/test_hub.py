"""What is fetched of a repository on the hub."""

from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects

from trilemma import hub

HELD = (
    "config.json",
    "cfg.json",
    "run/config.json",
    "run/layers.3/cfg.json",
    "run/layers.3/old/cfg.json",
    "run/layers.4/cfg.json",
    "layers.3/cfg.json",
)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the hub's own client, with one repository."""

    def snapshot_download(
        repo_id: str, *, allow_patterns: list[str], ignore_patterns: list[str], **_: str
    ) -> str:
        for name in filter_repo_objects(
            HELD, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        ):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)


@pytest.mark.parametrize(
    ("subfolder", "wanted"),
    [
        (None, {"config.json", "cfg.json"}),
        ("layers.3", {"config.json", "layers.3/cfg.json"}),
        ("run/layers.3", {"run/config.json", "run/layers.3/cfg.json"}),
    ],
)
def test_an_sae_is_fetched_with_what_its_run_says_of_it(
    subfolder: str | None, wanted: set[str], repository: None, tmp_path: Path
) -> None:
    folder = hub.download_sae("owner/saes", "0" * 40, subfolder=subfolder)
    assert folder == tmp_path / (subfolder or "")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {str(path.relative_to(tmp_path)) for path in files} == wanted
