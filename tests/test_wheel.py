"""The wheel alone: it holds the library and nothing else, and loads an SAE."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from trilemma.sae import SAE

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    subprocess.run(
        ["git", "clone", "--quiet", "--no-local", str(ROOT), str(source)], check=True
    )
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run(
        [*command, "--no-build-isolation", "--wheel-dir", str(folder), str(source)],
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_the_library_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"trilemma"}
    assert "trilemma/py.typed" in names


def test_wheel_loads_an_sae_where_there_is_no_checkout(wheel, tmp_path):
    sae = SAE(
        "topk",
        W_enc=torch.eye(4),
        b_enc=torch.zeros(4),
        W_dec=torch.eye(4),
        b_dec=torch.zeros(4),
        k=2,
    )
    sae.save(tmp_path / "sae")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import torch, trilemma.sae\n"
        f"assert trilemma.sae.__file__.startswith({str(site)!r})\n"
        f"sae = trilemma.sae.SAE.load({str(tmp_path / 'sae')!r})\n"
        "print(sae(torch.tensor([3.0, 1.0, 2.0, 0.0])).tolist())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.strip() == "[3.0, 0.0, 2.0, 0.0]"
