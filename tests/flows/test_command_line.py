"""The command line: exit statuses, and one line for each mistake of a user."""

import json
import os
import subprocess
import sys

import pytest


def test_misspelt_command_is_status_2_with_a_hint(flows):
    ended = flows("trainig", "configs/toy.yaml")
    assert ended.status == 2
    assert "training" in ended.err
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["saes.0.kk=3"], "saes.0.kk: is not a key"),
        (["saes.0.k=abc"], "saes.0.k: found 'abc'"),
        (["saes.0.k=65"], "saes.0.k: found 65; must not exceed d_sae"),
        (
            [
                "toy=null",
                "lm={kind: local, path: /none}",
                "corpus={kind: embedded}",
                "harvest={hooks: [a]}",
            ],
            "no folder '/none'",
        ),
        (
            [
                "toy=null",
                "lm={kind: hub, id: a/b}",
                "corpus={kind: embedded}",
                "harvest={hooks: [a]}",
            ],
            "lm.id: ",
        ),
        (
            [
                "toy=null",
                "lm={kind: embedded}",
                "harvest={hooks: [a]}",
                "corpus={kind: text, paths: [/none/*.txt]}",
            ],
            "corpus.paths",
        ),
    ],
)
def test_bad_profile_is_status_2_and_one_line(flows, words, said):
    ended = flows("show", "configs/toy.yaml", *words)
    assert ended.status == 2
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1
    assert "Traceback" not in ended.err


def test_home_that_is_not_writable_is_status_2_and_one_line(flows, tmp_path):
    (tmp_path / "file").write_text("")
    home = str(tmp_path / "file" / "home")
    ended = flows("show", "configs/toy.yaml", TRILEMMA_HOME=home)
    assert ended.status == 2
    assert f"{home}: cannot be written" in ended.err
    assert len(ended.err.splitlines()) == 1


def test_show_lists_the_steps_before_anything_ran(flows):
    ended = flows("show", "configs/toy.yaml", "--json")
    assert ended.status == 0
    assert {row["state"] for row in json.loads(ended.out)} == {"missing"}


def test_show_is_readable(flows):
    ended = flows("show", "configs/toy.yaml")
    assert "frozen-random" in ended.out


def test_run_ends_with_status_0_and_the_reports_path(flows, profile):
    ended = flows("run", profile)
    assert ended.status == 0, ended.err
    assert ended.out.splitlines()[-1].endswith("index.html")


def test_failed_stage_is_status_1_with_the_command_that_resumes(flows, profile):
    ended = flows("run", profile, "training.batch_tokens=100000")
    assert ended.status == 1
    last = ended.err.splitlines()[-1]
    assert "training.batch_tokens: found 100000, but the store has only" in last
    assert f"resume with: python -m flows run {profile} training.batch_tokens" in last
    assert "Traceback" not in ended.err


def test_verify_finds_a_flipped_bit(flows, profile, home):
    assert flows("harvest", profile).status == 0
    assert flows("verify", profile).status == 0
    (chunk,) = home.glob("harvest/*/eval.zarr/toy/activations/c/0/0")
    data = bytearray(chunk.read_bytes())
    data[100] ^= 1
    chunk.write_bytes(data)
    ended = flows("verify", profile)
    assert ended.status == 1
    assert f"{chunk}: its bytes have changed" in ended.err


def test_help_imports_neither_torch_nor_prefect():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['flows', '--help']\n"
        "try:\n    runpy.run_module('flows', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "print(sorted({'torch', 'prefect'} & set(sys.modules)), file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    assert ended.stderr.strip() == "[]"
    assert "run" in ended.stdout
