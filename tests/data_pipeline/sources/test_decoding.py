import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.sources.decoding import clean, decoded

TEXT = "name = 'é€'\nother = 1\n"


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (TEXT.encode(), "a.py"),
        (TEXT.encode("utf-8-sig"), "a.py"),
        (TEXT.replace("\n", "\r\n").encode("utf-8-sig"), "a.txt"),
        (TEXT.replace("\n", "\r").encode(), "a.c"),
        (codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"), "a.cs"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "a.txt"),
        (codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"), "a.txt"),
    ],
)
def test_the_same_text_whatever_file_held_it(data: bytes, path: str) -> None:
    assert decoded(data, path) == TEXT


@pytest.mark.parametrize(
    ("head", "encoding", "path"),
    [
        ("# -*- coding: latin-1 -*-\n", "latin-1", "a.py"),
        ("#!/usr/bin/env python\n# vim: set fileencoding=cp1252 :\n", "cp1252", "a.py"),
        ("# -*- coding: iso-8859-15-unix -*-\n", "iso-8859-15", "a.rb"),
        ("# -*- coding: euc-jp -*-\n", "euc-jp", "a.py"),
        # Bytes of seven bits, which would pass for UTF-8.
        ("# -*- coding: iso-2022-jp -*-\n", "iso-2022-jp", "a.py"),
        (";; -*- coding: koi8-r -*-\n", "koi8-r", "a.el"),
        ("<?xml version='1.0' encoding='shift_jis'?>\n", "shift_jis", "a.html"),
        ('<html><head><meta charset="windows-1251">\n', "windows-1251", "a.html"),
        ("# -*- coding: utf-8-unix -*-\n", "utf-8", "a.py"),
    ],
)
def test_an_encoding_that_a_file_declares_is_its_encoding(head: str, encoding: str, path: str) -> None:
    letters = {"euc-jp": "日本", "iso-2022-jp": "日本", "shift_jis": "日本", "koi8-r": "да", "windows-1251": "да"}
    text = head + letters.get(encoding, "é") + "\n"
    assert decoded(text.encode(encoding), path) == text


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b"name = '\xe9'\n", "a.py"),
        (b"x = 1\ny = 2\n# coding: latin-1 on the third line\nz = '\xe9'\n", "a.py"),
        (b"# coding: rot13\nx = 1\n", "a.py"),
        (b"# coding: unheard-of\nx = 1\n", "a.py"),
        (b"# coding: ascii\nx = '\xc3\xa9'\n", "a.py"),
        (b"the coding: latin-1 \xe9\n", "a.txt"),
        (codecs.BOM_UTF16_LE + b"\x00", "a.txt"),
        (b"\xff\xfe\x00\x00\x00\x00\x11\x00", "a.txt"),
    ],
)
def test_nothing_is_guessed(data: bytes, path: str) -> None:
    assert decoded(data, path) is None


@given(st.text())
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    assert clean(clean(text)) == clean(text)
    assert "\r" not in clean(text) and not clean(text).startswith("\ufeff")
