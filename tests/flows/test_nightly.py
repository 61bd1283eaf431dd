"""A night: profiles in order, each whatever became of the others."""

import shutil
from pathlib import Path

import pytest
import yaml

from flows import serving
from flows.nightly import Night, nightly
from storage import home as homes
from trilemma.config import nightly as nights

pytestmark = pytest.mark.usefixtures("prefect")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, prefect, profile) -> Path:
    """Return the home of a night of one profile; tests copy it."""
    home = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(homes.VARIABLE, str(home))
        assert night([profile]).made == (str(profile),)
    return home


@pytest.fixture
def copy(finished, tmp_path, monkeypatch) -> Path:
    """Return a copy of a finished home, in use."""
    home = tmp_path / "copy"
    shutil.copytree(finished, home)
    monkeypatch.setenv(homes.VARIABLE, str(home))
    return home


def state_of(profiles, words=()):
    return nightly([str(p) for p in profiles], list(words), return_state=True)


def night(profiles, words=()) -> Night:
    ended = state_of(profiles, words).result(raise_on_failure=False)
    assert isinstance(ended, Night), ended
    return ended


def test_a_night_of_cached_profiles_ends_in_a_state_named_cached(copy, profile):
    state = state_of([profile, profile])
    assert (state.name, state.is_completed()) == ("Cached", True)


def test_a_bad_profile_does_not_stop_the_next(copy, profile, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: bad\nsaes: []\nlm: 3\n")
    ended = night([tmp_path / "none.yaml", bad, profile])
    assert list(ended.failed) == [str(tmp_path / "none.yaml"), str(bad)]
    assert ended.cached == (str(profile),)


def test_a_failed_night_has_one_line_for_each_failed_profile(copy, profile, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: bad\nsaes: []\nlm: 3\n")
    missing = tmp_path / "none.yaml"
    state = state_of([missing, profile, bad])
    assert state.is_failed()
    first, second = state.message.splitlines()
    assert first == (
        f"{missing}: cannot be read (No such file or directory); name a YAML file "
        "such as configs/quickstart.yaml"
    )
    assert second.startswith(f"{bad}: ")
    assert "; saes: found []" in second


def test_a_failed_stage_names_the_profile_and_the_stage(copy, profile):
    words = ["training.batch_tokens=100000"]
    assert state_of([profile], words).message.startswith(f"{profile}: training ")


def test_words_change_every_profile(copy, profile):
    assert night([profile], ["explanation.num_latents=2"]).made == (str(profile),)


def test_a_profile_edited_by_day_is_another_at_night(copy, profile, tmp_path):
    edited = tmp_path / "edited.yaml"
    edited.write_text(profile.read_text())
    assert night([edited]).cached == (str(edited),)
    edited.write_text(profile.read_text() + "\nreporting: {title: Edited}\n")
    assert night([edited]).made == (str(edited),)


def test_a_home_that_cannot_be_written_fails_every_profile(
    tmp_path, monkeypatch, profile
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(homes.VARIABLE, str(tmp_path / "file" / "home"))
    ended = night([profile])
    assert "cannot be written (Not a directory)" in ended.failed[str(profile)]


@pytest.mark.parametrize("cron", ["", "x", "61 * * * *", "0 2 * *", "H 2 * * *"])
def test_a_bad_cron_line_is_told(cron):
    with pytest.raises(ValueError, match=r"^--cron: found .*; write minute"):
        serving.schedule(cron, "UTC")


def test_an_unknown_time_zone_is_told():
    with pytest.raises(ValueError, match=r"^--timezone: found 'Mars'; name"):
        serving.schedule("0 2 * * *", "Mars")


def test_the_deployment_runs_the_shipped_night():
    file = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    (deployment,) = file["deployments"]
    parameters = nights.Nightly.model_validate(deployment["parameters"])
    assert parameters == nights.load(ROOT / "configs/nightly.yaml")


@pytest.mark.slow
def test_the_command_says_what_became_of_each_profile(flows, profile, tmp_path):
    file = tmp_path / "night.yaml"
    missing = tmp_path / "none.yaml"
    file.write_text(f"profiles: [{missing}, {profile}]")
    ended = flows("nightly", file)
    assert ended.status == 1
    assert ended.out.splitlines()[-1] == f"{profile}: done"
    (line,) = [s for s in ended.err.splitlines() if s.startswith(f"{missing}: ")]
    assert "cannot be read (No such file or directory)" in line
    assert line.endswith(f"resume with: python -m flows run {missing}")
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("command", [["nightly"], ["serve", "--cron", "0 2 * * *"]])
def test_a_bad_night_is_status_2_and_one_line(flows, tmp_path, command):
    ended = flows(*command, tmp_path / "none.yaml")
    assert ended.status == 2
    assert len(ended.err.splitlines()) == 1


def test_a_bad_cron_line_is_status_2_and_one_line(flows):
    ended = flows("serve", "configs/nightly.yaml", "--cron", "0 25 * * *")
    assert ended.status == 2
    assert ended.err.startswith("--cron: found '0 25 * * *'")
    assert len(ended.err.splitlines()) == 1


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_status_1_and_one_line(flows):
    ended = flows(
        "serve",
        "configs/nightly.yaml",
        "--cron",
        "0 2 * * *",
        PREFECT_API_URL="http://127.0.0.1:9/api",
    )
    assert ended.status == 1
    assert ended.err.startswith("PREFECT_API_URL: no Prefect server answers at ")
    assert len(ended.err.splitlines()) == 1
