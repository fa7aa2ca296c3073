"""What is wrong with a value, in the words of the spec: one clause and, where one is known, the remedy."""

import difflib
import re
from collections.abc import Callable
from typing import Any

from pydantic_core import ErrorDetails

from specs.schema.quantities import LARGEST

HEX = "hexadecimal digits in lower case"


def _slug(value: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-") or "my-name"


def _digest(value: str) -> str:
    if re.fullmatch("[0-9a-fA-F]{64}", value):
        return f"must be 64 {HEX}: write {value.lower()[:8]}..."
    return f"must be 64 {HEX}; this has {len(value)} characters"


# By the pattern that a text must match: what a person would call it.
PATTERNS: dict[str, Callable[[str], str]] = {
    r"^[a-z0-9]+(-[a-z0-9]+)*$": lambda value: f"must be lower-case words joined by hyphens: write {_slug(value)}",
    r"^[0-9a-f]{64}$": _digest,
    r"^[0-9a-f]{40}$": lambda value: f"must be a commit in full, 40 {HEX}, because branches and tags move",
    r"^([0-9a-f]{40}|[0-9a-f]{64})$": lambda value: f"must be a commit in full, 40 or 64 {HEX}, because branches move",
    r"^https://[^\s]+$": lambda value: "must be an address that begins with https://",
    r"^[\w.-]+(/[\w.-]+)?$": lambda value: "must be a dataset's name, such as owner/name",
}

# What people write for a value of a closed list.
MEANT = {
    "bfloat16": "bf16",
    "float32": "fp32",
    "fp16": "bf16",
    "linear": "cosine",
    "pypi": "package-index",
    "url": "https",
    "http": "https",
    "local": "file",
    "huggingface": "hugging-face",
    "hf": "hugging-face",
    "github": "git",
    "bitwise": "topology",
    "ddp": "zero2",
    "fsdp": "zero3",
    "human-eval": "humaneval",
    "chat": "chat-v1",
}

# What ruamel.yaml says, and what it means to the person who wrote the line.
YAML: tuple[tuple[str, str], ...] = (
    (r"found character '\\t'", "a tab cannot indent: use spaces"),
    (r"found character '(.)' that cannot start", r"'\1' cannot begin a value: put the value in quotes"),
    (r"expected <block end>, but found '<block mapping start>'", "this line is indented otherwise than those above it"),
    (
        r"expected <block end>, but found '(<block sequence start>|-)'",
        "a list item stands where a key belongs: check its indent and the line above",
    ),
    (r"expected <block end>, but found '\?'", "a key stands where a list item belongs: check its indent"),
    (r"expected <block end>", "this does not belong to what stands above it: check the indent, and quotes"),
    (
        r"mapping values are not allowed here",
        "a second colon in one entry: put the value in quotes, or mend the line above",
    ),
    (r"expected ',' or '([\]}])'", r"a bracket is not closed: '\1' or a comma is missing before this"),
    (r"found unexpected end of stream", "a quote is not closed"),
    (r"found undefined alias", "an alias (*) whose anchor (&) is not in this file"),
    (r"could not find expected ':'", "a colon is missing after the key"),
    (r"expected the node content", "a value is missing here"),
)


def yaml_fault(problem: str) -> str:
    """What a fault of YAML means, from what the parser says."""
    for pattern, meaning in YAML:
        if match := re.search(pattern, problem):
            return match.expand(meaning)
    return problem


def clause(details: ErrorDetails, value: object) -> str:
    """What a value must be, as one clause to follow its path, with the remedy where one is known."""
    context: dict[str, Any] = details.get("ctx", {})
    if value is None:
        return "is empty: give a value"
    match details["type"]:
        case "float_type" | "float_parsing":
            return f"must be a number, not {shown(value)}"
        case "int_type" | "int_parsing" | "int_from_float":
            return f"must be a whole number, not {shown(value)}"
        case "int_parsing_size":
            return f"is too large: {shown(value)}"
        case "finite_number":
            return f"must be finite, not {shown(value)}"
        case "greater_than":
            return f"must be above {number(context['gt'])}, not {shown(value)}"
        case "greater_than_equal":
            return f"must be at least {number(context['ge'])}, not {shown(value)}"
        case "less_than":
            return f"must be below {number(context['lt'])}, not {shown(value)}"
        case "less_than_equal" if context["le"] == LARGEST:
            return f"is too large: {shown(value)}"
        case "less_than_equal":
            return f"must be at most {number(context['le'])}, not {shown(value)}"
        case "bool_type" | "bool_parsing":
            return f"must be true or false, not {shown(value)}"
        case "string_type":
            quoted = f": write {str(value)!r}" if isinstance(value, int | float) else ""
            return f"must be text, not {shown(value)}{quoted}"
        case "string_too_short":
            return "must not be empty"
        case "string_pattern_mismatch":
            explain = PATTERNS.get(context["pattern"])
            return f"{explain(str(value)) if explain else 'has the wrong form'}, not {shown(value)}"
        case "tuple_type" | "list_type":
            return f"must be a list: write [{value if isinstance(value, str | int | float) else '...'}]"
        case "too_short":
            return "must hold at least one item"
        case "dict_type":
            return f"must be a mapping of keys, not {shown(value)}"
        case "literal_error":
            return one_of(re.findall(r"'([^']*)'", context["expected"]), value)
    return f"{details['msg'][:1].lower()}{details['msg'][1:]}, not {shown(value)}"


def one_of(options: list[str], value: object) -> str:
    """That a value is none of a closed list, and which of them was probably meant."""
    listed = ", ".join(options[:-1]) + f" or {options[-1]}" if len(options) > 1 else options[0]
    text = str(value)
    lowered = {option.lower(): option for option in options}
    longer = [option for option in options if option.lower().startswith(text.lower())]
    close = difflib.get_close_matches(text.lower(), lowered, n=1, cutoff=0.6)
    meant = lowered.get(text.lower()) or (MEANT.get(text.lower()) if MEANT.get(text.lower()) in options else None)
    hint = meant or " or ".join(longer) or (lowered[close[0]] if close else "")
    return f"must be {listed}, not {shown(value)}" + (f"; did you mean {hint}?" if hint else "")


def number(value: float) -> str:
    """A bound as a person writes it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def shown(value: object) -> str:
    """A value as the file has it, cut where it is long."""
    text = {True: "true", False: "false", None: "nothing"}.get(value) if isinstance(value, bool | None) else None
    text = text or repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
