"""The file that lists a night's profiles: what it may hold, and how its errors read."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from trilemma.config import ProfileError, nightly

ROOT = Path(__file__).parents[3]


def written(folder: Path, text: str) -> Path:
    path = folder / "night.yaml"
    path.write_text(text)
    return path


def test_the_shipped_night_names_profiles_that_exist():
    night = nightly.load(ROOT / "configs/nightly.yaml")
    assert [p for p in night.profiles if not (ROOT / p).is_file()] == []


def test_words_follow_the_files_own(tmp_path):
    path = written(tmp_path, "profiles: [a.yaml]\nwords: [x=1]")
    assert nightly.load(path, ("x=2",)).words == ("x=1", "x=2")


def test_a_night_cannot_be_changed(tmp_path):
    night = nightly.load(written(tmp_path, "profiles: [a.yaml]"))
    with pytest.raises(ValidationError, match="frozen"):
        night.words = ("x=1",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("words: []", "profiles: missing; it has no default"),
        ("profiles: []", "profiles: found []; list should have at least 1 item"),
        ("profiles: a.yaml", "profiles: found 'a.yaml'; input should be a valid list"),
        (
            "profiles: [a.yaml, 3]",
            "profiles.1: found 3; input should be a valid string",
        ),
        (
            "profiles: [a.yaml]\nprofile: [b.yaml]",
            "profile: is not a key; did you mean profiles?",
        ),
        (
            "profiles: [a.yaml]\nwords: [seed]",
            "words: found 'seed'; write dotted.key=value",
        ),
        (
            "profiles: [a.yaml]\nwords: [=3]",
            "words: found '=3'; write dotted.key=value",
        ),
        ("- a.yaml", "found list; write a mapping of keys, as in configs/nightly.yaml"),
        ("profiles: [", "is not YAML: "),
    ],
)
def test_each_mistake_is_one_line(tmp_path, text, said):
    with pytest.raises(ProfileError) as raised:
        nightly.load(written(tmp_path, text))
    assert said in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_missing_file_is_told_with_an_example(tmp_path):
    with pytest.raises(ProfileError, match=r"cannot be read \(No such file") as raised:
        nightly.load(tmp_path / "none.yaml")
    assert "configs/nightly.yaml" in str(raised.value)


def test_a_file_that_is_no_text_is_told(tmp_path):
    path = tmp_path / "night.yaml"
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ProfileError, match="it is not UTF-8"):
        nightly.load(path)
