"""The program in a chat answer, as `chat-v2` takes it out: code blocks by CommonMark, else code between prose.

An answer is text of any length that nobody has read: what is spent on one is bounded.
"""

import ast
import re
import warnings
from bisect import bisect_left
from collections.abc import Iterator

from markdown_it import MarkdownIt

from evaluation.protocols.extraction import parse

_MARKDOWN = MarkdownIt("commonmark")
# HTML would hide a fence that follows a tag; what stands within a paragraph is no matter here.
_MARKDOWN.disable("html_block")
_MARKDOWN.core.ruler.disable("inline")

_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})")
_CODE_BEGINS = re.compile(r"(?:def|class|import|from|async|@|[A-Za-z_]\w*[ \t]*[:=])")
_THOUGHT = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_THOUGHT_ENDS = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)
_MAX_DEPTH = 3
"""Blocks within blocks that are looked into."""
_MAX_READ = 2_000_000
"""Characters of an answer that are read as Python in search of the program, those read again counted again."""


def program_in(answer: str, function: str | None) -> str | None:
    """The program in a chat answer: of the code blocks that define the function, the last one that is Python.

    Line ends become `\\n`; what the model thought before it answered is no part of the answer. The whole answer counts
    where it is such a program; code between prose where no block is one. A definition that only restates the prompt (no
    body but a docstring) counts where there is no other. None where nothing defines the function (or, with no function
    known, anything).
    """
    text = _without_thoughts(answer.replace("\r\n", "\n").replace("\r", "\n"))
    search = _Search(text)
    for source in (iter([text]), search.blocks(text), search.loose_blocks(), search.stretches()):
        codes = [code for code in source if _defines(code, function)]
        whole = [code for code in codes if _defines(code, function, body=True)]
        if codes:
            return (whole or codes)[-1]
    return None


def fenced(code: str) -> str:
    """Code as a block from which `program_in` takes it again, whatever it holds."""
    longest = max((len(run) for run in re.findall(r"`{3,}", code)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}python\n{code}\n{fence}"


def _without_thoughts(text: str) -> str:
    text = _THOUGHT.sub("", text)
    # Some templates open the thought in the prompt: the answer then holds its end alone.
    ends = [match.end() for match in _THOUGHT_ENDS.finditer(text)]
    return text[ends[-1] :] if ends else text


class _Search:
    """Places of an answer where a program may stand."""

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")
        self._fences = [number for number, line in enumerate(self._lines) if _FENCE.match(line)]
        self._left = _MAX_READ

    def blocks(self, text: str, depth: int = 0) -> Iterator[str]:
        """Contents of code blocks, in order; of one that holds blocks itself, those in its place."""
        for token in _MARKDOWN.parse(text):
            if token.type not in ("fence", "code_block"):
                continue
            if self._is_python(token.content):
                yield token.content
                continue
            if depth < _MAX_DEPTH and _FENCE.search(token.content):
                yield from self.blocks(token.content, depth + 1)
            if depth == 0 and token.level == 0 and token.type == "fence" and token.map:
                yield from self._block(token.map[0], token.map[1])

    def loose_blocks(self) -> Iterator[str]:
        """Code from any line that begins with a fence, however far it is indented."""
        for start in self._fences:
            yield from self._block(start, start + 1)

    def _block(self, start: int, end: int) -> Iterator[str]:
        """Code from a fence to the first fence from line `end` on with which it is Python.

        That may be a later one than Markdown means: a fence in a docstring is text.
        """
        indent = len(self._lines[start]) - len(self._lines[start].lstrip())
        if self._left <= 0:
            return
        for number in (*self._fences[bisect_left(self._fences, end) :], len(self._lines)):
            inside = self._lines[start + 1 : number]
            code = "\n".join(line[indent:] if not line[:indent].strip() else line for line in inside) + "\n"
            if self._left <= 0:
                return
            if self._is_python(code):
                yield code
                return

    def stretches(self) -> Iterator[str]:
        """Stretches of lines that are Python, each from a line that may begin a program to the last before prose."""
        lines, number = self._lines, 0
        while number < len(lines) and self._left > 0:
            if not _CODE_BEGINS.match(lines[number]):
                number += 1
                continue
            end = len(lines)
            while end > number and self._left > 0:
                code = "\n".join(lines[number:end])
                self._spend(code)
                fault = _first_fault(code)
                if fault is None:
                    yield code.rstrip() + "\n"
                    break
                end = number + min(fault, end - number - 1)
            number = max(end, number + 1)

    def _is_python(self, code: str) -> bool:
        self._spend(code)
        return self._left > 0 and parse(code) is not None

    def _spend(self, code: str) -> None:
        # A short text costs its share of what a parser does first.
        self._left -= max(len(code), _MAX_READ // 1000)


def _first_fault(code: str) -> int | None:
    """Number of lines before the one that Python does not understand; none where it understands all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(code)
            return None
        except SyntaxError as error:
            return max(0, (error.lineno or 1) - 1)
        except (ValueError, RecursionError, MemoryError):
            return code.count("\n") // 2


def _defines(code: str, function: str | None, body: bool = False) -> bool:
    """Whether code is Python that binds the function's name (any function's, where none is named) at its top level.

    `body`: to more than a docstring.
    """
    tree = parse(code)
    if tree is None:
        return False
    names: set[str] = set()
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                if not body or not all(_says_nothing(statement) for statement in node.body):
                    names.add(name)
            case ast.Assign(targets=targets):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.Import(names=imported) | ast.ImportFrom(names=imported) if function:
                names |= {(alias.asname or alias.name) for alias in imported}
    return function in names if function else bool(names)


def _says_nothing(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )
