"""Check what would be published: that dist/ is complete, and that its wheel works in an environment of its own.

``make dist-check`` runs it with the developers' interpreter. PyTorch takes gigabytes and minutes to install, so the
new environment has the wheel alone, without dependencies, and sees those of this interpreter through a .pth file.
That cannot pass this checkout off as the wheel: Python reads no .pth file in a folder that a .pth file adds, so
the editable install is out of reach, and where ``widenet`` comes from is asserted.
"""

import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("widenet", "widenet_cli")
# What the source distribution holds besides the package, for those who test or package it.
FOLDERS = ("benchmarks", "docs", "tests")
# Quick, and they read README and docs, too.
TESTS = ("tests/test_config.py", "tests/test_docs.py", "tests/models/test_paper.py")
LOCATION = """
from pathlib import Path
from importlib.metadata import version
import sys, widenet, widenet_cli
for module in (widenet, widenet_cli):
    assert Path(module.__file__).is_relative_to(sys.prefix), f"{module.__name__} comes from {module.__file__}"
assert version("widenet") == widenet.__version__
print(widenet.create_model("widenet-digits").num_parameters(), "parameters")
"""


def main() -> None:
    (wheel,) = (ROOT / "dist").glob("*.whl")
    (sdist,) = (ROOT / "dist").glob("*.tar.gz")
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name).resolve()  # also where the commands run, so that the checkout is not on the path
        call(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", temporary / "tree", ROOT)
        check_files(wheel, temporary / "tree" / wheel.name)
        tree = unpack(sdist, temporary)
        missing = [str(file) for folder in FOLDERS for file in files(ROOT / folder, ROOT) - files(tree / folder, tree)]
        assert not missing, f"{sdist.name} lacks {', '.join(sorted(missing))}"
        binaries = install(wheel, temporary / "environment")
        call(binaries / "python", "-c", LOCATION, cwd=temporary)
        for command in (["--help"], ["recipes"], ["models", "--json"]):
            call(binaries / "widenet", *command, cwd=temporary)
        # Tests of the sdist, on the code of the wheel.
        call(binaries / "python", "-m", "pytest", "-p", "no:cacheprovider", *TESTS, cwd=tree)
    print(f"{wheel.name} and {sdist.name} are complete and work")


def check_files(wheel: Path, from_tree: Path) -> None:
    """Hold the wheel (built from the sdist) against one built from the checkout, and both against src/."""
    built, expected = contents(wheel), contents(from_tree)
    assert built == expected, f"the wheel differs from the checkout's: {different(built, expected)}"
    source = {
        file.as_posix(): (ROOT / "src" / file).read_bytes()
        for package in PACKAGES
        for file in files(ROOT / "src" / package, ROOT / "src")
    }
    packed = {name: data for name, data in built.items() if ".dist-info/" not in name}
    assert packed == source, f"the wheel differs from src/: {different(packed, source)}"
    assert "widenet/py.typed" in packed
    assert any(name.endswith(".yaml") for name in packed)
    assert any(name.endswith(".css") for name in packed)


def files(folder: Path, root: Path) -> set[Path]:
    """Return the files below a folder, as seen from `root`, without Python's caches."""
    return {file.relative_to(root) for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts}


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def different(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def unpack(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return folder / sdist.name.removesuffix(".tar.gz")


def install(wheel: Path, environment: Path) -> Path:
    """Make an environment with the wheel in it; return the folder of its programs."""
    venv.create(environment)
    binaries = environment / ("Scripts" if os.name == "nt" else "bin")
    call(sys.executable, "-m", "pip", "--python", binaries / "python", "install", "--no-deps", "--no-index", wheel)
    places = {"base": str(environment), "platbase": str(environment)}
    site = Path(sysconfig.get_path("purelib", scheme="venv", vars=places))
    borrowed = [path for path in sys.path if path and Path(path).name in ("site-packages", "dist-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    return binaries


def call(*command: str | Path, cwd: Path = ROOT) -> None:
    print("$", *(word if "\n" not in str(word) else "…" for word in command), flush=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nfailed with exit code {done.returncode}")


if __name__ == "__main__":
    main()
