"""Holds emulated processors to the committed digests: `make test-processors`. It needs Debian's `qemu-user`, as root.

    python tests/model/portable/emulated.py FOLDER [native] [haswell] [zen] [aarch64]

x86-64 is emulated with this Python. For aarch64 a Python of Debian and the wheels of PyPI are fetched into FOLDER once.
"""

import hashlib
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from test_processors import EXPECTED, SCRIPT

from runner.training.job import Job

ROOT = Path(__file__).parents[3]
RUNNER = ROOT / "tests" / "runner"
TRAINING = runpy.run_path(str(RUNNER / "training" / "test_portable.py"))
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
WHEELS = (
    "numpy",
    "llvmlite",
    "pydantic_core",
    "safetensors",
    "ml_dtypes",
    "pyarrow",
    "sentencepiece",
    "tensorstore",
)
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
    "tqdm",
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


def python(name: str, folder: Path, *arguments: str | Path, **variables: str) -> str:
    """What a Python prints whose processor is emulated, or the one at hand (`native`)."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    command: list[str | Path] = [sys.executable]
    if name in X86:
        command = ["qemu-x86_64", "-cpu", X86[name], *command]
    if name == "aarch64":
        if not (folder / "done").exists():
            fetch_aarch64(folder)
        environment["PYTHONPATH"] = f"{folder / 'site'}:{ROOT}"
        command = ["qemu-aarch64", "-L", folder / "root", folder / "root" / "usr" / "bin" / "python3.11", "-S"]
    return run([*command, *arguments], env=environment)


def gradients(name: str, folder: Path) -> str:
    """Digest of gradients, losses and logits, on one thread."""
    return python(name, folder, "-c", SCRIPT.replace('for threads in "12"', 'for threads in "1"')).strip()


def weights(name: str, folder: Path) -> str:
    """Digest of the weights that the training loop has made in three steps, on one rank."""
    settings = runpy.run_path(str(RUNNER / "conftest.py"))
    with tempfile.TemporaryDirectory() as made, socket.create_server(("localhost", 0)) as free:
        scratch = Path(made)
        places = {"store": str(scratch / "store"), "scratch": made, "measured": str(scratch / "measured")}
        settings["write_store"](scratch / "store")
        job = Job.model_validate(settings["_with"](settings["TINY"] | places, TRAINING["THREE_STEPS"]))
        (scratch / "job.json").write_text(job.model_dump_json(), "utf-8")
        rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        rank |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1]), "GLOO_SOCKET_IFNAME": "lo"}
        free.close()
        strictly = {"TWICE_STRICT": "1", "TWICE_THREADS": "1", "OMP_NUM_THREADS": "1"}
        python(name, folder, "-m", "runner.training.worker", scratch / "job.json", **rank, **strictly)
        return hashlib.sha256((scratch / "finished" / "model.safetensors").read_bytes()).hexdigest()


def main(folder: Path, names: Sequence[str]) -> int:
    """1 where a processor gives another digest."""
    wrong = 0
    for name in names or [*X86, "aarch64"]:
        for what, expected in ((gradients, EXPECTED), (weights, TRAINING["PRETRAINED"])):
            found = what(name, folder)
            wrong += found != expected
            verdict = "as committed" if found == expected else f"instead of {expected}"
            print(f"{name}: {what.__name__} {found} {verdict}", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
