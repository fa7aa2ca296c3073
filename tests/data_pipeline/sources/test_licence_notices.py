from pathlib import Path

import licenseclassifier
import pytest

from data_pipeline.sources.licence_notices import HEADER_LINES, file_licences, header_licence

GPL = """\
/* tool.c - a tool
 *
 * Copyright (C) 2011 A. Person
 *
 * This program is free software; you can redistribute it and/or modify
 * it under the terms of the GNU General Public License as published by
 * the Free Software Foundation; either version 2 of the License, or
 * (at your option) any later version.
 *
 * This program is distributed in the hope that it will be useful,
 * but WITHOUT ANY WARRANTY; without even the implied warranty of
 * MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE.  See the
 * GNU General Public License for more details.
 */
#include <stdio.h>
"""
LGPL = GPL.replace("GNU General Public", "GNU Lesser General Public").replace("version 2 of", "version 2.1 of")
APACHE = """\
# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.
import os
"""
MIT = """\
// Permission is hereby granted, free of charge, to any person obtaining a copy
// of this software and associated documentation files (the "Software"), to deal
// in the Software without restriction, including without limitation the rights
// to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
// copies of the Software, and to permit persons to whom the Software is
// furnished to do so, subject to the following conditions:
//
// The above copyright notice and this permission notice shall be included in
// all copies or substantial portions of the Software.
//
// THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
// IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
// FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
// AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
// LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
// OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
// SOFTWARE.
int main() {}
"""


@pytest.mark.parametrize(
    ("header", "expression"),
    [
        (GPL, "GPL-2.0-or-later"),
        (LGPL, "LGPL-2.1-or-later"),
        (APACHE, "Apache-2.0"),
        (MIT, "MIT"),
        (
            "# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)\n",
            "GPL-3.0-or-later",
        ),
        (
            "# This software may be used and distributed according to the terms of the\n"
            "# GNU General Public License version 2 or any later version.\n",
            "GPL-2.0-or-later",
        ),
        ("# Licensed under the GPL: https://www.gnu.org/licenses/old-licenses/gpl-2.0.html\n", "GPL-2.0-only"),
        ("// Licensed under the LGPL: https://www.gnu.org/licenses/old-licenses/lgpl-2.1.en.html\n", "LGPL-2.1-only"),
        ("; This file is covered by the AGPLv3\n", "AGPL-3.0-only"),
        ("-- License: GPL\n", "GPL-1.0-or-later"),
        (
            "# This file is dual licensed under the terms of the Apache License, Version\n"
            "# 2.0, and the BSD License. See the LICENSE file in the root of this repository\n",
            "Apache-2.0 OR BSD-3-Clause",
        ),
        ("/*! lib v1.2 | MIT/GPL2 Licensed */\n", "MIT OR GPL-2.0-only"),
        ("// Distributed under the Boost Software License, Version 1.0.\n", "BSL-1.0"),
        ("# Released under the Mozilla Public License, v. 2.0.\n", "MPL-2.0"),
        ("# Documentation under https://creativecommons.org/licenses/by-sa/4.0/\n", "CC-BY-SA-4.0"),
        ("# Distributed under the terms of the Modified BSD License.\n", "BSD-3-Clause"),
    ],
)
def test_notices_of_real_files(header: str, expression: str) -> None:
    assert header_licence(header + "x = 1\n" * 50) == expression
    # Lines before it, other years and another indentation change nothing.
    assert header_licence("#!/usr/bin/env thing\n\n" + header.replace("2011", "1999-2026") + "x = 1\n") == expression


@pytest.mark.parametrize(
    "text",
    [
        "import os\n\n\ndef licence():\n    return 1\n",
        "# See LICENSE for details.\n",
        "def gpl_check(name):\n    return name in GPL_NAMES\n",
        "#include <gnu/libc-version.h>\n#ifdef __GNUC__\n",
        "x = 1\n" * HEADER_LINES + GPL,
        "",
    ],
)
def test_what_is_no_notice(text: str) -> None:
    assert header_licence(text) is None


def test_a_licence_file_holds_one_or_several_licences() -> None:
    own = (Path(__file__).parents[3] / "LICENSE").read_text("utf-8")
    assert file_licences(own) == ("Apache-2.0",)
    mit = "MIT License\n\nCopyright (c) 2011 A. Person\n\n" + MIT.replace("//", "").partition("int main")[0]
    assert file_licences(mit) == ("MIT",)
    assert set(file_licences(own + "\n\n" + mit)) == {"Apache-2.0", "MIT"}
    assert file_licences("Ask the author before you use this.\n") == ()
    assert file_licences("Licensed under the GNU GPL, version 3 or later.\n") == ("GPL-3.0-or-later",)


def test_the_detector_alone_passes_over_notices_of_one_line() -> None:
    """Why there is a table of names: the day this fails, it may go."""
    text = "distributed under the GNU General Public License version 2 or any later version."
    assert not licenseclassifier.identify_license(text, 0)
    assert header_licence(f"# {text}\n") == "GPL-2.0-or-later"
