"""Comments and strings of source code, found by one lexical scan that any text survives."""

import re
from collections.abc import Mapping

PYTHON = ("python", "cython")
COMMENTED_AS_C = ("c", "cpp", "csharp", "go", "java", "javascript", "php", "rust", "typescript")
SCANNED = (*PYTHON, *COMMENTED_AS_C)
"""Languages that the scan knows."""

# Python: comments, and string literals that begin a line; others are matched so that a `#` inside them is none.
_PYTHON_COMMENTS = re.compile(
    r"""(?P<comment>\#[^\n]*)
    | (?P<docstring>^[\ \t]*[rRuU]?(?:\"{3}(?>[^"\\]+|\\.|"(?!""))*+\"{3}|'{3}(?>[^'\\]+|\\.|'(?!''))*+'{3}))
    | \"{3}(?>[^"\\]+|\\.|"(?!""))*+\"{3} | '{3}(?>[^'\\]+|\\.|'(?!''))*+'{3}
    | "(?>[^"\\\n]+|\\.)*+" | '(?>[^'\\\n]+|\\.)*+'""",
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)
_C_COMMENTS = re.compile(
    r"""(?P<comment>//[^\n]* | /\*(?>[^*]+|\*(?!/))*+\*/) | "(?>[^"\\\n]+|\\.)*+" | '(?>[^'\\\n]+|\\.)*+'
    | `(?>[^`\\]+|\\.)*+`""",
    re.DOTALL | re.VERBOSE,
)
COMMENTS: Mapping[str, re.Pattern[str]] = dict.fromkeys(PYTHON, _PYTHON_COMMENTS) | dict.fromkeys(
    COMMENTED_AS_C, _C_COMMENTS
)
"""By language: matches comments and strings; the last group names what counts as a comment."""

# What comments, docstrings and other strings begin with is a plain character of each alternative: so the search for
# the next of them is a scan for a few characters, many times as fast as the patterns above.
_PYTHON_LITERALS = re.compile(
    r"""\#[^\n]*|\"\"\"(?>[^"\\]+|\\.|"(?!""))*+\"{3}|'''(?>[^'\\]+|\\.|'(?!''))*+'{3}|"(?>[^"\\\n]+|\\.)*+"|'(?>[^'\\\n]+|\\.)*+'""",
    re.DOTALL,
)
_C_LITERALS = re.compile(
    r"""//[^\n]*|/\*(?>[^*]+|\*(?!/))*+\*/|"(?>[^"\\\n]+|\\.)*+"|'(?>[^'\\\n]+|\\.)*+'|`(?>[^`\\]+|\\.)*+`""", re.DOTALL
)
LITERALS: Mapping[str, re.Pattern[str]] = dict.fromkeys(PYTHON, _PYTHON_LITERALS) | dict.fromkeys(
    COMMENTED_AS_C, _C_LITERALS
)
"""By language: matches comments and strings, without groups."""
