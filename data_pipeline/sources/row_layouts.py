"""Rows of public datasets to documents: texts and code, functions, instructions, conversations, in their layouts."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from data_pipeline.documents.documents import ROLES, Message, render_conversation
from data_pipeline.documents.languages import language_of, named
from data_pipeline.documents.licences import joined
from data_pipeline.sources.decoding import clean
from data_pipeline.sources.row_files import Row
from specs.schema.sources import Columns


@dataclass(frozen=True)
class RowContent:
    """What a row holds."""

    language: str
    text: str
    licence: str | None = None
    """SPDX expression that the row states of itself."""
    repository: str = ""
    """Repository that the row states."""
    file: str = ""
    """Path within it."""


COLUMNS = (
    *("text", "content", "path", "max_stars_repo_path", "meta", "lang", "language", "programming_language"),
    *("repo_name", "max_stars_repo_name", "repository_name", "repo", "func_path_in_repository"),
    *("max_stars_repo_licenses", "detected_licenses", "licenses", "license"),
    *("original_string", "whole_func_string"),
    *("messages", "conversations", "conversation", "system", "prompt"),
    *("instruction", "input", "context", "output", "response"),
)
"""Columns that any of the readers looks at."""

_LICENCES = ("max_stars_repo_licenses", "detected_licenses", "licenses", "license")
_LONGEST = 1_000
"""Turns of a conversation that are followed down a tree."""
_REPOSITORIES = ("repo_name", "max_stars_repo_name", "repository_name", "repo")
_NAMES = {
    "text": "text",
    "path": "path",
    "licence": "license",
    "language": "lang",
    "repository": "repo_name",
    "messages": "messages",
    "system": "system",
    "instruction": "instruction",
    "context": "context",
    "response": "response",
}
"""What the readers call the fields of `columns`."""
_SPEAKERS = {
    "prompter": "user",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "developer": "system",
} | {role: role for role in ROLES}
"""Roles by the names that OpenAI and ShareGPT give them."""


def conversation(row: Row) -> RowContent | str:
    """Chat messages, or what is wrong with them.

    OpenAI's layout: `messages` of `role` and `content`, where content is text or a list of parts of type text.
    ShareGPT's: `conversations` of `from` and `value`; a `system` beside them comes first. OpenAssistant's trees: of
    `prompt` and its `replies` the best-ranked branch, as far as its last answer. Then user and assistant take
    turns, and the assistant has the last word.
    """
    turns = _branch(row["prompt"]) if isinstance(row.get("prompt"), dict) else None
    turns = turns or _first(row, "messages", "conversations", "conversation")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return "no list of messages"
    pairs = [(_SPEAKERS.get(str(_first(turn, "role", "from"))), _said(turn)) for turn in turns]
    if isinstance(system := row.get("system"), str) and system.strip():
        pairs.insert(0, ("system", system))
    return _rendered(pairs)


def instruction(row: Row) -> RowContent | str:
    """An instruction and its answer, or what is wrong with them.

    Alpaca's layout: `instruction`, `input` (may be empty), `output`. Dolly's: `instruction`, `context`, `response`.
    """
    request, answer = row.get("instruction"), _first(row, "output", "response")
    context = _first(row, "input", "context") or ""
    if not isinstance(request, str) or not isinstance(answer, str) or not isinstance(context, str):
        return "no `instruction` and `output` or `response`"
    question = "\n\n".join(filter(None, (trimmed(request), trimmed(context))))
    return _rendered([("user", question), ("assistant", trimmed(answer))])


def plain(row: Row) -> RowContent | str:
    """A text under `text` (The Pile) or `content` (The Stack, StarCoder, CodeParrot), or what is wrong with it.

    The language is what the row states under `lang`, `language` or `programming_language`, else that of the file name
    that it states; without either the text is prose. The licence comes from the row where it states one: all of
    several must be met.
    """
    text = _first(row, "text", "content")
    if not isinstance(text, str):
        return "no text under `text` or `content`"
    meta = row.get("meta")
    within: Row = meta if isinstance(meta, dict) else {}
    names = (row.get("path"), row.get("max_stars_repo_path"), within.get("file_name"), within.get("path"))
    return RowContent(
        language_from(names, row, text), clean(text), licence_of(row), *repository_and_file(row, within, names)
    )


def function(row: Row) -> RowContent | str:
    """A row of CodeSearchNet (Husain et al., 2019): the whole function, docstring included, or what is wrong.

    The published files call it `original_string`, the copy on the Hugging Face hub `whole_func_string`.
    """
    language, text = row.get("language"), _first(row, "original_string", "whole_func_string")
    if not isinstance(language, str) or not isinstance(text, str):
        return "no `original_string` and `language`"
    names = (row.get("path"), row.get("func_path_in_repository"))
    return RowContent(named(language) or language.lower(), clean(text), None, *repository_and_file(row, {}, names))


def heads(columns: Columns | None) -> list[str]:
    """Columns of a file that a source's own names lead to: the first part of each."""
    stated = columns.model_dump().values() if columns else ()
    return [name.split(".")[0] for name in stated if name is not None]


def mapped(row: Row, columns: Columns | None) -> Row:
    """A row under the names that the readers know; `meta.repo` leads into a column."""
    if columns is None:
        return row
    own: Row = {}
    for field, name in columns.model_dump().items():
        if name is not None:
            value: Any = row
            for part in name.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            own[_NAMES[field]] = value
    return own


READERS: dict[str, Callable[[Row], RowContent | str]] = {
    "conversations": conversation,
    "instructions": instruction,
    "jsonl": plain,
    "codesearchnet": function,
}
"""How one row becomes a document, by the format of the source."""


def trimmed(text: str) -> str:
    """A text without blank lines around it. The first line of code keeps its indentation."""
    return re.sub(r"\A(?:[^\S\n]*\n)+", "", clean(text)).rstrip()


def _first(row: Row, *names: str) -> Any:
    """Of several columns for one thing the first that is filled; else the first that is there at all."""
    values = [row[name] for name in names if row.get(name) is not None]
    filled = (value for value in values if (value.strip() if isinstance(value, str) else value))
    return next(filled, values[0] if values else None)


def _branch(message: Row) -> list[Row]:
    """The branch of a tree of messages that people ranked first, up to the assistant's last word in it."""
    branch: list[Row] = []
    while True:
        branch.append({"role": message.get("role"), "content": message.get("text")})
        replies = [reply for reply in message.get("replies") or () if isinstance(reply, dict)]
        if not replies or len(branch) > _LONGEST:
            break
        ranks = [reply.get("rank") for reply in replies]
        known = [rank if isinstance(rank, int) else len(replies) for rank in ranks]
        message = replies[known.index(min(known))]
    while branch and branch[-1]["role"] != "assistant":
        branch.pop()
    return branch


def _rendered(pairs: list[tuple[str | None, str | None]]) -> RowContent | str:
    turns = [Message(role, clean(content)) for role, content in pairs if role is not None and content is not None]
    if len(turns) != len(pairs):
        return "message without a known role and text"
    if not re.fullmatch(r"(system )?(user assistant )+", "".join(f"{turn.role} " for turn in turns)):
        return "turns out of order"
    if not all(turn.content.strip() for turn in turns):
        return "empty message"
    return RowContent("conversation", render_conversation(turns))


def _said(turn: Row) -> str | None:
    content: Any = _first(turn, "content", "value")
    if not isinstance(content, list):
        return content if isinstance(content, str) else None
    parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    return "".join(map(str, parts)) if None not in parts else None


def language_from(names: Iterable[Any], row: Row, text: str | None = None) -> str:
    """Language of a row: what it states, where that is known; else by the first of these file names; else prose.

    With its text a file name without ending, or a header of C, is looked into.
    """
    stated = (row.get(key) for key in ("lang", "language", "programming_language"))
    if (language := next((own for name in stated if isinstance(name, str) and (own := named(name))), None)) is not None:
        return language
    name = next((name for name in names if isinstance(name, str) and name), None)
    return "text" if name is None else language_of(name, text)


def repository_and_file(row: Row, within: Row, names: Iterable[Any]) -> tuple[str, str]:
    """Repository that a row states, and the path of its file there; empty where it states none."""
    stated = (where.get(key) for where in (row, within) for key in _REPOSITORIES)
    return tuple(  # type: ignore[return-value]
        next((value for value in values if isinstance(value, str)), "") for values in (stated, names)
    )


def licence_of(row: Row) -> str | None:
    """Licence that a row states of itself: all of several must be met."""
    stated: Any = next((row[key] for key in _LICENCES if row.get(key)), None)
    if stated is None:
        return None
    names = stated if isinstance(stated, list) else [stated]
    return joined([name for name in names if isinstance(name, str)] if names else [])
