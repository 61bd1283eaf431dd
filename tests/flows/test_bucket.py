"""A home in a bucket: another machine finds everything there, errors are one line."""

import os
import shutil

import pytest

from flows.__main__ import main
from storage import home as homes
from storage.home import Home
from storage.places import open_place
from tasks import plan as planning
from trilemma import config

TOY = "configs/toy.yaml"


@pytest.fixture
def flows(s3, tmp_path, run_flows):
    """Return a function that runs commands on a bucket, and works in a local folder."""
    settings = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
    settings[homes.CACHE_VARIABLE] = str(tmp_path / "cache")
    return lambda *words: run_flows(s3, *words, **settings)


@pytest.fixture
def said(s3, tmp_path, monkeypatch, capsys):
    """Return a function that gives words to the command line in this process."""
    monkeypatch.setenv(homes.VARIABLE, s3)
    monkeypatch.setenv(homes.CACHE_VARIABLE, str(tmp_path / "cache"))

    def run(*words):
        status = main([str(word) for word in words])
        return status, *capsys.readouterr()

    return run


@pytest.mark.slow
def test_machine_without_anything_finds_everything_in_the_bucket(
    flows, profile, tmp_path
):
    first = flows("run", profile)
    assert first.status == 0, first.err
    assert not list(tmp_path.glob("cache/*/harvest/*/*.zarr"))
    shutil.rmtree(tmp_path / "cache")
    second = flows("run", profile)
    assert second.status == 0, second.err
    (line,) = [x for x in second.out.splitlines() if x.startswith("all ")]
    assert line.split()[2:] == ["13", "of", "13"]


@pytest.mark.slow
def test_machine_without_anything_goes_on_from_what_is_in_the_bucket(
    flows, profile, tmp_path
):
    first = flows("training", profile)
    assert first.status == 0, first.err
    shutil.rmtree(tmp_path / "cache")
    second = flows("evaluation", profile)
    assert second.status == 0, second.err
    times = [x for x in second.out.splitlines() if x.startswith("training ")]
    assert times[0].split()[1:] == ["0.0", "3", "of", "3"]
    verified = flows("verify", profile)
    assert verified.status == 0, verified.err
    assert " 0 damaged" in verified.out


@pytest.mark.slow
def test_bytes_in_a_bucket_are_those_in_a_folder(
    flows, profile, s3, tmp_path, run_flows
):
    assert flows("training", profile).status == 0
    assert run_flows(tmp_path / "home", "training", profile).status == 0
    there = Home(tmp_path / "cache", open_place(s3))
    assert digests(profile, there) == digests(profile, Home(tmp_path / "home"))


def digests(profile, home):
    steps = planning.make(config.load(profile), home).steps
    made = [step for step in steps if step.stage in ("harvest", "training")]
    return {step.key: step.manifest().digest for step in made}


@pytest.mark.slow
def test_forced_stage_is_refused_in_one_line(flows, profile):
    assert flows("harvest", profile).status == 0
    ended = flows("harvest", profile, "--force")
    assert ended.status == 1
    (line,) = [x for x in ended.err.splitlines() if "resume with" in x]
    assert "on a bucket artifacts are not replaced, delete that prefix" in line
    assert "Traceback" not in ended.err


@pytest.mark.slow
@pytest.mark.usefixtures("s3_strict")
@pytest.mark.parametrize("command", ["run", "show", "verify"])
def test_bucket_without_permission_is_status_2_and_one_line(said, command):
    status, _, err = said(command, TOY)
    assert status == 2
    assert "permission denied" in err
    assert len(err.splitlines()) == 1
    assert "never-shown" not in err


@pytest.mark.slow
def test_missing_bucket_is_status_2_and_one_line(said, monkeypatch):
    monkeypatch.setenv(homes.VARIABLE, "s3://none-such/x")
    status, _, err = said("show", TOY)
    assert status == 2
    assert "s3://none-such/x: there is no such bucket" in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_show_lists_the_steps_of_an_empty_bucket(said):
    status, out, _ = said("show", TOY)
    assert status == 0
    assert "missing" in out
