"""Trained SAEs handed out: to folders of other tools, and to a hub that lies here."""

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi

from flows.training import training as training_flow
from storage import home as homes
from storage.home import Home
from tasks import exporting
from tasks import plan as planning
from trilemma import config
from trilemma.sae import SAE

pytestmark = pytest.mark.usefixtures("prefect")


class LocalHub:
    """A hub whose repositories are folders of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create_repo(self, repo_id: str, *, exist_ok: bool) -> None:
        (self.folder / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(self, *, repo_id, folder_path, path_in_repo, commit_message):
        shutil.copytree(folder_path, self.folder / repo_id / path_in_repo)


@pytest.fixture(scope="module")
def plan(tmp_path_factory, profile, prefect):
    """Return the plan of a run whose SAEs are trained."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(homes.VARIABLE, str(home))
        state = training_flow(config.load(profile), force=False, return_state=True)
    assert state.is_completed(), state.message
    return planning.make(config.load(profile), Home(home))


@pytest.mark.parametrize("file_format", ["saelens", "dictionary_learning", "sparsify"])
def test_exported_sae_is_the_one_that_was_trained(plan, file_format, tmp_path):
    exporting.export(plan, "topk-k2", tmp_path / "out", file_format=file_format)
    trained = SAE.load(plan.step("training", "topk-k2").folder / "sae")
    assert torch.equal(SAE.load(tmp_path / "out").W_dec, trained.W_dec)


def test_pushed_sae_lies_where_saelens_looks(plan, tmp_path):
    exporting.push(plan, "topk-k2", "me/saes", uploader=LocalHub(tmp_path))
    names = [path.name for path in (tmp_path / "me/saes/topk-k2").iterdir()]
    assert sorted(names) == ["cfg.json", "sae_weights.safetensors"]


def test_refusal_of_the_hub_tells_no_more_than_its_kind(plan):
    class Refusing(LocalHub):
        def create_repo(self, repo_id, *, exist_ok):
            raise OSError("secret")

    with pytest.raises(
        ValueError, match=r"me/saes: the hub did not take 'topk-k2' \(O"
    ):
        exporting.push(plan, "topk-k2", "me/saes", uploader=Refusing(Path()))


def test_a_hub_out_of_reach_is_told_in_one_line(plan):
    # Nothing listens at port 9 of this machine.
    nowhere = HfApi(endpoint="http://127.0.0.1:9", token="x")
    with pytest.raises(
        ValueError, match=r"me/saes: the hub did not take 'topk-k2' \(ConnectError\)"
    ):
        exporting.push(plan, "topk-k2", "me/saes", uploader=nowhere)


def test_unknown_sae_is_answered_with_those_that_there_are(plan, tmp_path):
    with pytest.raises(ValueError, match=r"found no SAE 'topk'; name one of topk-k2, "):
        exporting.export(plan, "topk", tmp_path, file_format="saelens")


def test_folder_with_files_is_left_alone(plan, tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(ValueError, match="is not empty; name a new folder"):
        exporting.export(plan, "topk-k2", tmp_path, file_format="saelens")
