"""The home: where it is, and the errors when it cannot be used."""

import pytest

from storage import home


def test_home_is_the_variable_or_artifacts_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(home.VARIABLE, raising=False)
    assert home.find() == tmp_path / "artifacts"
    monkeypatch.setenv(home.VARIABLE, str(tmp_path / "x"))
    assert home.find() == tmp_path / "x"


def test_bucket_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv(home.VARIABLE, "s3://bucket/x")
    with pytest.raises(home.HomeError, match=r"TRILEMMA_HOME: found 's3://bucket/x'"):
        home.find()


def test_home_that_cannot_be_made_says_what_to_set(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(home.HomeError, match=r"cannot be written .*set TRILEMMA_HOME"):
        home.prepare(tmp_path / "file" / "home")


def test_stage_that_does_not_fit_is_refused_before_it_starts(tmp_path):
    with pytest.raises(home.HomeError, match=r"MiB free, about .* MiB needed"):
        home.check_room(tmp_path, 1 << 60)
