"""Documents that people asked not to be trained on."""

import hashlib

from data_pipeline.documents.documents import Document
from data_pipeline.sources.globs import matches
from specs.schema.data import OptOut


class OptOuts:
    """The lists of a spec, ready to be asked about one document after the other."""

    def __init__(self, section: OptOut) -> None:
        self._repositories = {name.lower() for name in section.repositories}
        self._paths = section.paths
        self._ids = {digest for digest in section.contents if len(digest) == 32}
        self._sha256 = {digest for digest in section.contents if len(digest) == 64}

    def reason(self, document: Document) -> str | None:
        """Why a document is left out; none where nobody asked for it."""
        if self._repositories and document.repository.lower() in self._repositories:
            return "opted out: repository"
        if self._paths:
            places = [document.place]
            if document.repository:
                places.append(f"{document.repository}/{document.file or document.path}")
            if any(matches(place, self._paths) for place in places):
                return "opted out: path"
        if document.id in self._ids:
            return "opted out: content"
        if self._sha256 and hashlib.sha256(document.text.encode()).hexdigest() in self._sha256:
            return "opted out: content"
        return None
