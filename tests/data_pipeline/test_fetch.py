import functools
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pypi_simple import PyPISimple

from data_pipeline import fetch as stage
from data_pipeline.fetch import PinnedFile, fetch, write
from data_pipeline.fetching import origin as origin_module
from data_pipeline.fetching.content_store import Mirrors, Store
from data_pipeline.fetching.origin import Origin
from data_pipeline.pin import parse_locator, pin
from specs.common.errors import UserError
from specs.common.files import tree_digests
from specs.schema.sources import GitCommit, HttpsFile, HubFile, LocalFile, LocalFolder, PackageIndexFile, Pinned

DATA = b"source archive" * 1000
SHA = hashlib.sha256(DATA).hexdigest()


class Server(ThreadingHTTPServer):
    """A package index and file server whose answers a test chooses."""

    answers: dict[str, list[tuple[int, bytes, int | None]]]
    """By path: status, body, and the length it claims; the last answer is repeated."""
    asked: list[str]
    headers: dict[str, str]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        queue = self.server.answers.get(self.path, [(404, b"", None)])
        status, body, length = queue.pop(0) if len(queue) > 1 else queue[0]
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with Server(("127.0.0.1", 0), Handler) as running:
        running.answers, running.asked, running.headers = {}, [], {}
        endpoint = f"http://127.0.0.1:{running.server_port}/simple/"
        monkeypatch.setattr(origin_module, "PyPISimple", functools.partial(PyPISimple, endpoint))
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def at(server: Server, path: str, sha256: str = SHA, size: int | None = None) -> Pinned:
    # The schema asks for https; the server of this test speaks http.
    locator = HttpsFile.model_construct(kind="https", url=f"http://127.0.0.1:{server.server_port}{path}")
    return Pinned.model_construct(locator=locator, sha256=sha256, size=size)


def obtain(tmp_path: Path, *pinned: Pinned, mirrors: tuple[Path, ...] = ()) -> list[Path]:
    wanted = [PinnedFile("source", f"s{number}", each) for number, each in enumerate(pinned)]
    with Origin(tmp_path) as origin:
        return fetch(wanted, Store(tmp_path / "store"), Mirrors(mirrors), origin)


def stored(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_an_address_is_downloaded_once_and_then_found_in_the_store(tmp_path: Path, server: Server) -> None:
    server.answers["/a.tar"] = [(200, DATA, None)]
    for _ in range(2):
        [path, same] = obtain(tmp_path, at(server, "/a.tar"), at(server, "/b.tar"))
        assert path == same and path.read_bytes() == DATA
    assert server.asked == ["/a.tar"]


def test_a_mirror_spares_the_network(tmp_path: Path, server: Server) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "other-name").write_bytes(DATA)
    [path] = obtain(tmp_path, at(server, "/a.tar", size=len(DATA)), mirrors=(tmp_path / "mirror",))
    assert path.read_bytes() == DATA
    assert server.asked == []


def test_a_damaged_store_entry_is_fetched_again(tmp_path: Path, server: Server) -> None:
    server.answers["/a.tar"] = [(200, DATA, None)]
    [path] = obtain(tmp_path, at(server, "/a.tar"))
    path.write_bytes(b"rot")
    assert obtain(tmp_path, at(server, "/a.tar")) == [path]
    assert path.read_bytes() == DATA


def test_passing_trouble_is_tried_again(tmp_path: Path, server: Server) -> None:
    server.answers["/a.tar"] = [(503, b"", None), (200, DATA[:100], len(DATA)), (200, DATA, None)]
    [path] = obtain(tmp_path, at(server, "/a.tar"))
    assert path.read_bytes() == DATA
    assert len(server.asked) == 3


def test_a_server_may_say_how_long_to_wait_but_not_for_ever(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    server.headers["Retry-After"] = "7"
    server.answers["/a.tar"] = [(429, b"", None), (200, DATA, None)]
    assert obtain(tmp_path, at(server, "/a.tar"))[0].read_bytes() == DATA
    server.headers["Retry-After"] = "86400"
    server.answers["/b.tar"] = [(503, b"", None), (200, DATA[:9], None)]
    with pytest.raises(UserError, match="is not what the spec pins"):
        obtain(tmp_path, at(server, "/b.tar", "b" * 64))
    assert [wait for wait in waits if wait >= 1] == [7, 60]


def test_lasting_trouble_is_one_line_and_leaves_nothing(tmp_path: Path, server: Server) -> None:
    server.answers["/short"] = [(200, DATA[:100], len(DATA))]
    server.answers["/down"] = [(500, b"", None)]
    cases = {"/short": "no connection", "/down": "the server answers 500", "/absent": "the server answers 404"}
    for path, trouble in cases.items():
        with pytest.raises(UserError, match=trouble) as caught:
            obtain(tmp_path, at(server, path))
        line = str(caught.value)
        assert "\n" not in line and "source 's0'" in line and SHA in line and "TWICE_MIRRORS" in line
    assert server.asked.count("/absent") == 1
    assert stored(tmp_path) == []


def test_wrong_and_overlong_bytes_never_enter_the_store(tmp_path: Path, server: Server) -> None:
    server.answers["/a.tar"] = [(200, b"tampered", None)]
    with pytest.raises(UserError, match=f"its sha256 is {hashlib.sha256(b'tampered').hexdigest()}.* expected .*{SHA}"):
        obtain(tmp_path, at(server, "/a.tar"))
    server.answers["/long"] = [(200, DATA, None)]
    with pytest.raises(UserError, match="longer than the 10 bytes"):
        obtain(tmp_path, at(server, "/long", size=10))
    assert stored(tmp_path) == []


def test_one_file_that_is_missing_does_not_lose_the_others(tmp_path: Path, server: Server) -> None:
    server.answers["/a.tar"] = [(200, DATA, None)]
    with pytest.raises(UserError, match=r"'s1'.*1 more of 3"):
        obtain(tmp_path, at(server, "/a.tar"), at(server, "/b", "b" * 64), at(server, "/c", "c" * 64))
    assert [path.name for path in stored(tmp_path)] == [SHA]


def index(project: str, filename: str) -> Pinned:
    return Pinned(locator=PackageIndexFile(kind="package-index", project=project, filename=filename), sha256=SHA)


def test_the_package_index_is_asked_by_name(tmp_path: Path, server: Server) -> None:
    page = (
        f'<a href="/files/a-1.tar.gz#sha256={SHA}">a-1.tar.gz</a><a href="/files/b-1.zip#sha256={"0" * 64}">b-1.zip</a>'
    )
    server.answers["/simple/a/"] = [(200, page.encode(), None)]
    server.answers["/files/a-1.tar.gz"] = [(200, DATA, None)]
    [path] = obtain(tmp_path, index("A", "a-1.tar.gz"))
    assert path.read_bytes() == DATA
    (tmp_path / "store").rename(tmp_path / "old")
    with pytest.raises(UserError, match=r"has no file 'a-2\.tar\.gz'"):
        obtain(tmp_path, index("a", "a-2.tar.gz"))
    with pytest.raises(UserError, match="no project 'absent'"):
        obtain(tmp_path, index("absent", "a-1.tar.gz"))
    with pytest.raises(UserError, match="lists it with sha256 0000"):
        obtain(tmp_path, index("a", "b-1.zip"))
    assert "/files/b-1.zip" not in server.asked


def test_a_local_file_lies_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(DATA)
    pinned = Pinned(locator=LocalFile(kind="file", path="data.jsonl"), sha256=SHA)
    [path] = obtain(tmp_path, pinned)
    assert path.read_bytes() == DATA
    absent = Pinned(locator=LocalFile(kind="file", path="absent"), sha256="0" * 64)
    with pytest.raises(UserError, match="no file absent below the project root"):
        obtain(tmp_path, absent)


def test_a_file_of_the_hub_is_had_at_its_revision(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    locator = HubFile(kind="hugging-face", dataset="bigcode/the-stack", revision="a" * 40, path="data/c/x.parquet")
    pinned = Pinned(locator=locator, sha256=SHA)
    asked = f"/datasets/bigcode/the-stack/resolve/{'a' * 40}/data/c/x.parquet"
    server.answers = {asked: [(401, b"", None)]}
    with pytest.raises(UserError, match=r"the server answers 401, because its terms must be accepted .* HF_TOKEN"):
        obtain(tmp_path, pinned)
    server.answers = {asked: [(200, DATA, None)]}
    [path] = obtain(tmp_path, pinned)
    assert path.read_bytes() == DATA and pinned.filename == "x.parquet"


def test_folders_and_commits_are_pinned_by_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "data" / "notes").mkdir(parents=True)
    (tmp_path / "data" / "notes" / "a.md").write_text("text\n", "utf-8")
    pinned = pin(LocalFolder(kind="folder", path="data/notes"), tmp_path)
    [path] = obtain(tmp_path, pinned)
    assert pinned.filename == "notes.tar" and path.stat().st_size == pinned.size
    (tmp_path / "store").rename(tmp_path / "old")
    (tmp_path / "data" / "notes" / "a.md").write_text("other\n", "utf-8")
    with pytest.raises(UserError, match=r"notes\.tar is not what the spec pins: its sha256 is [0-9a-f]{64}"):
        obtain(tmp_path, pinned)
    git = GitCommit(kind="git", repository="data/absent.bundle", commit="0" * 40)
    with pytest.raises(UserError, match=r"cannot fetch absent-000000000000\.tar .*: git fetch fails: "):
        obtain(tmp_path, Pinned(locator=git, sha256=SHA))
    with pytest.raises(UserError, match="cannot pin: there is no folder absent"):
        pin(LocalFolder(kind="folder", path="absent"), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{kind: git, repository: 'git://host/a', commit: " + "0" * 40 + "}", "give an https address"),
        ("{kind: git, repository: --upload-pack=x, commit: " + "0" * 40 + "}", "give an https address"),
        ("{kind: git, repository: ../a, commit: " + "0" * 40 + "}", "leaves the project"),
        ("{kind: hugging-face, dataset: a/b, revision: main, path: x}", "revision"),
        ("{kind: ftp, path: x}", "is no locator"),
        ("{", "is no locator"),
    ],
)
def test_a_locator_that_pins_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_locator(text)


def test_the_folder_written_is_a_function_of_the_spec(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(DATA)
    pinned = Pinned(locator=LocalFile(kind="file", path="data.jsonl"), sha256=SHA)
    paths = obtain(tmp_path, pinned)
    for out in ("one", "two"):
        write([PinnedFile("source", "s", pinned)], paths, tmp_path / out)
    assert tree_digests(tmp_path / "one") == tree_digests(tmp_path / "two")
    assert (tmp_path / "one" / "s" / "data.jsonl").read_bytes() == DATA
    ledger = json.loads((tmp_path / "one" / "ledger.json").read_text("utf-8"))
    assert ledger["facts"]["sha256"] == {"s": SHA} and ledger["bytes_in"] == len(DATA)


def test_a_file_name_cannot_leave_its_folder() -> None:
    with pytest.raises(UserError, match="cannot be a file name"):
        stage.from_this_machine([PinnedFile("source", "s", index("a", "../../x.tar.gz"))])
