"""Where locators lead: the package index, https addresses, files, folders and repositories below the project root."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import requests
import urllib3
from pypi_simple import NoSuchProjectError, PyPISimple, UnsupportedContentTypeError, UnsupportedRepoVersionError

from data_pipeline.fetching import reproducible_tar
from data_pipeline.fetching.content_store import CHUNK, WrongBytesError, read_chunks
from specs.schema.sources import GitCommit, HttpsFile, HubFile, LocalFile, LocalFolder, PackageIndexFile, Pinned

TIMEOUT = (10.0, 60.0)
"""Seconds to connect, and between two pieces of an answer."""


class UnreachableError(Exception):
    """The locator does not lead to the bytes; the message says why."""


class Origin:
    """Where locators lead: the package index, https addresses, files of this project."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._index = PyPISimple()
        self._session = self._index.s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()

    def chunks(self, pinned: Pinned, advance: Callable[[int], None]) -> Iterator[bytes]:
        """Bytes that the locator leads to, in chunks.

        Raises UnreachableError where there are none, WrongBytesError where it is known beforehand that they are not
        the pinned ones, and requests.RequestException for trouble on the way.
        """
        match pinned.locator:
            case LocalFile(path=path):
                return self._local(path, advance)
            case LocalFolder(path=path):
                return reproducible_tar.folder_chunks(self._root / path, advance)
            case GitCommit(repository=repository, commit=commit):
                address = repository if repository.startswith("https://") else str(self._root / repository)
                return reproducible_tar.commit_chunks(address, commit, advance)
            case HttpsFile(url=url):
                return self._download(url, advance)
            case HubFile(dataset=dataset, revision=revision, path=path):
                return self._download(f"{_hub()}/datasets/{dataset}/resolve/{revision}/{path}", advance, _hub_token())
            case PackageIndexFile(project=project, filename=filename):
                return self._download(self._package_url(project, filename, pinned), advance)

    def _local(self, path: str, advance: Callable[[int], None]) -> Iterator[bytes]:
        if not (self._root / path).is_file():
            raise UnreachableError(f"there is no file {path} below the project root")
        return read_chunks(self._root / path, advance)

    def _package_url(self, project: str, filename: str, pinned: Pinned) -> str:
        try:
            page = self._index.get_project_page(project, timeout=TIMEOUT)
        except NoSuchProjectError as error:
            raise UnreachableError(f"the package index has no project {project!r}") from error
        except (UnsupportedRepoVersionError, UnsupportedContentTypeError, ValueError) as error:
            raise UnreachableError(f"the package index answers in a way that is not understood ({error})") from error
        for package in page.packages:
            if package.filename == filename:
                listed = package.digests.get("sha256", pinned.sha256)
                if listed != pinned.sha256:
                    raise WrongBytesError(f"the package index lists it with sha256 {listed}")
                return str(package.url)
        raise UnreachableError(f"project {project!r} of the package index has no file {filename!r}")

    def _download(
        self, url: str, advance: Callable[[int], None], authorization: Mapping[str, str] = MappingProxyType({})
    ) -> Iterator[bytes]:
        headers = {"Accept-Encoding": "identity", **authorization}
        with self._session.get(url, stream=True, timeout=TIMEOUT, headers=headers) as response:
            response.raise_for_status()
            try:
                # Raw: some servers label a .tar.gz as an encoding of a .tar, and it would be unpacked on the way.
                for chunk in response.raw.stream(CHUNK, decode_content=False):
                    yield chunk
                    advance(len(chunk))
            except urllib3.exceptions.HTTPError as error:
                raise requests.ConnectionError(str(error)) from error


def _hub() -> str:
    """Where the Hugging Face hub is: HF_ENDPOINT names a mirror of it, as for the hub's own client."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _hub_token() -> dict[str, str]:
    """For datasets whose terms one must accept: the token of HF_TOKEN. A redirect to another host does not get it."""
    token = os.environ.get("HF_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}
