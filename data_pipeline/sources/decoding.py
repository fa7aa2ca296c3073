"""Bytes of a file to its text: UTF-8, or the encoding that the file declares; never a guess."""

import codecs
import re

from data_pipeline.documents.languages import language_of

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks, the longer ones first: that of UTF-16 begins that of UTF-32."""
_COOKIE = re.compile(rb"[ \t\f]*(?:#|//|/\*|;|--|%|\")[^\n]{0,200}?coding[:=][ \t]*([-\w.]+)")
_MARKUP = re.compile(rb"<\?xml[^>]{0,200}\bencoding=[\"']([-\w.]+)|<meta[^>]{0,200}\bcharset=[\"']?([-\w.]+)", re.I)


def clean(text: str) -> str:
    """A text without what belongs to the file that held it: newlines become `\\n`, a byte order mark goes."""
    return text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")


def decoded(data: bytes, path: str) -> str | None:
    """Clean text of a file; none where its bytes are not in its encoding.

    That is the one of its byte order mark; else what it declares, as Python (PEP 263), Ruby and Emacs do in the first
    two lines, XML and HTML in their heads; else UTF-8.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _as(data[len(mark) :], encoding)
    return _as(data, _declared(data, language_of(path)) or "utf-8")


def _as(data: bytes, encoding: str) -> str | None:
    try:
        # Other codecs of Python make text of bytes too: rot13, and those that unpack.
        if not codecs.lookup(encoding)._is_text_encoding:
            return None
        return clean(data.decode(encoding))
    except (LookupError, UnicodeError):
        return None


def _declared(data: bytes, language: str) -> str | None:
    if language in ("html", "xml"):
        match = _MARKUP.search(data[:1_024])
        return next((name.decode() for name in match.groups() if name), None) if match else None
    for line in data[:1_024].split(b"\n", 2)[:2]:
        if match := _COOKIE.match(line):
            name = match[1].decode().lower()
            # Emacs' names for line ends and for plain UTF-8.
            name = re.sub(r"-(?:unix|dos|mac)$", "", name)
            return "utf-8" if name in ("utf-8", "utf8", "utf-8-emacs", "mule-utf-8") else name
    return None
