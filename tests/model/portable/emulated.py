"""Holds emulated processors to the committed digests: `make test-processors`. It needs Debian's `qemu-user`, as root.

    python tests/model/portable/emulated.py FOLDER [haswell] [zen] [aarch64]

x86-64 is emulated with this Python. For aarch64 a Python of Debian and the wheels of PyPI are fetched into FOLDER once.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from test_processors import EXPECTED, SCRIPT

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
X86 = {"haswell": "Haswell", "zen": "EPYC"}
DEBIAN = [
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "libgomp1",
    "zlib1g",
    "libexpat1",
    "libssl3",
    "libffi8",
    "libbz2-1.0",
    "liblzma5",
    "libsqlite3-0",
    "libuuid1",
]
TORCH = "2.10.0"
"""The last whose wheel for aarch64 needs no CUDA library."""
WHEELS = ("numpy", "llvmlite", "pydantic_core", "safetensors")
PURE = [
    "pydantic",
    "typing_extensions.py",
    "annotated_types",
    "typing_inspection",
    "sympy",
    "mpmath",
    "networkx",
    "jinja2",
    "markupsafe",
    "fsspec",
    "filelock",
    "ruamel",
    "hypothesis",
    "pytest",
    "_pytest",
    "pluggy",
    "iniconfig",
    "packaging",
    "pygments",
    "attr",
    "attrs",
    "sortedcontainers",
]


def run(command: Sequence[str | Path], **options: object) -> str:
    """What a command prints."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True, **options)
    return done.stdout


def fetch_aarch64(folder: Path) -> None:
    """A root with Debian's Python, and a folder of packages."""
    debs, root, site = folder / "debs", folder / "root", folder / "site"
    for path in (debs, root, site):
        path.mkdir(parents=True, exist_ok=True)
    run(["dpkg", "--add-architecture", "arm64"])
    run(["apt-get", "update", "-q"])
    run(["apt-get", "download", "-q", *(f"{name}:arm64" for name in DEBIAN)], cwd=debs)
    for deb in sorted(debs.glob("*.deb")):
        run(["dpkg-deb", "-x", deb, root])
    wanted = [f"torch=={TORCH}", *(f"{name}=={version(name)}" for name in WHEELS)]
    platforms = [f"manylinux{name}_aarch64" for name in ("_2_28", "_2_27", "2014", "_2_17")]
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--python-version",
        "3.11",
        "--implementation",
        "cp",
        "--abi",
        "cp311",
    ]
    places = [word for platform in platforms for word in ("--platform", platform)]
    run([sys.executable, "-m", "pip", "download", "-q", *options, *places, "-d", folder / "wheels", *wanted])
    for wheel in sorted((folder / "wheels").glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    installed = next(Path(path) for path in sys.path if (Path(path) / "torch").is_dir())
    for name in PURE:
        source = installed / name
        if source.is_dir():
            shutil.copytree(source, site / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.so"))
        elif source.is_file():
            shutil.copy(source, site / name)
    (folder / "done").touch()


def digest(name: str, folder: Path) -> str:
    """The digest that an emulated processor computes, on one thread."""
    script = SCRIPT.replace('for threads in "12"', 'for threads in "1"')
    if name in X86:
        return run(["qemu-x86_64", "-cpu", X86[name], sys.executable, "-c", script], stderr=subprocess.DEVNULL).strip()
    if not (folder / "done").exists():
        fetch_aarch64(folder)
    environment = os.environ | {"PYTHONPATH": f"{folder / 'site'}:{ROOT}"}
    command = [
        "qemu-aarch64",
        "-L",
        folder / "root",
        folder / "root" / "usr" / "bin" / "python3.11",
        "-S",
        "-c",
        script,
    ]
    return run(command, env=environment).strip()


def main(folder: Path, names: Sequence[str]) -> int:
    """1 where a processor gives another digest."""
    wrong = 0
    for name in names or [*X86, "aarch64"]:
        found = digest(name, folder)
        wrong += found != EXPECTED
        print(f"{name}: {found} {'as committed' if found == EXPECTED else f'instead of {EXPECTED}'}", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
