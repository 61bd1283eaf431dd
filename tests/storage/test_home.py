"""The home: where it is, and the errors when it cannot be used."""

import pytest

from storage import home
from storage.home import Home


@pytest.fixture(autouse=True)
def _no_cache_set(monkeypatch):
    monkeypatch.delenv(home.CACHE_VARIABLE, raising=False)


def test_home_is_the_variable_or_artifacts_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(home.VARIABLE, raising=False)
    assert home.find() == Home(tmp_path / "artifacts")
    monkeypatch.setenv(home.VARIABLE, str(tmp_path / "x"))
    assert home.find() == Home(tmp_path / "x")


def test_bucket_is_worked_on_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv(home.CACHE_VARIABLE, str(tmp_path))
    found = []
    for url in ("memory://one/a", "memory://one/b", "memory://one/b/"):
        monkeypatch.setenv(home.VARIABLE, url)
        found.append(home.find())
    assert [x.bucket.url for x in found] == ["memory://one/a", *["memory://one/b"] * 2]
    assert len({x.path for x in found}) == 2
    assert {x.path.parent for x in found} == {tmp_path}


def test_work_beside_a_bucket_is_in_the_users_cache_unless_said_otherwise(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(home.VARIABLE, "memory://one")
    assert home.find().path.parent == tmp_path / ".cache" / "trilemma"


def test_unknown_kind_of_url_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv(home.VARIABLE, "ftp://bucket/x")
    with pytest.raises(ValueError, match=r"'ftp'; name a folder, or a bucket by s3://"):
        home.find()


@pytest.mark.parametrize(
    "url",
    [
        "s3://KEY:SECRET@bucket/x",
        "az://box/x?sig=SECRET",
        "s3://SECRET@b",
        "s3://KEY:sec/SECRET@bucket",
    ],
)
def test_credentials_in_the_url_are_refused_and_not_repeated(monkeypatch, url):
    monkeypatch.setenv(home.VARIABLE, url)
    with pytest.raises(home.HomeError, match="found credentials in the URL") as caught:
        home.find()
    assert "SECRET" not in str(caught.value)


def test_home_that_cannot_be_made_says_what_to_set(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(home.HomeError, match=r"cannot be written .*set TRILEMMA_HOME"):
        home.prepare(Home(tmp_path / "file" / "home"))


def test_cache_that_cannot_be_made_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setenv(home.VARIABLE, "memory://one")
    monkeypatch.setenv(home.CACHE_VARIABLE, str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    with pytest.raises(home.HomeError, match=r"cannot be written .*set TRILEMMA_CACHE"):
        home.prepare(home.find())


def test_stage_that_does_not_fit_is_refused_before_it_starts(tmp_path):
    with pytest.raises(home.HomeError, match=r"MiB free, about .* MiB needed"):
        home.check_room(Home(tmp_path), 1 << 60)
