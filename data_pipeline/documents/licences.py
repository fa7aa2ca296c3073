"""Licence expressions of SPDX: whether allowed licences can meet them, and what files say of their own."""

import functools
import re
from collections.abc import Sequence

from license_expression import ExpressionError, ExpressionParseError, get_spdx_licensing

from specs.common.errors import UserError

UNKNOWN = "NOASSERTION"
"""What SPDX writes where nothing is known of a licence."""

_HEAD_LINES = 40
_TAG = re.compile(r"^[^\w\n]{0,12}SPDX-License-Identifier:[ \t]*([^\n]*)", re.MULTILINE)
_EXPRESSION = re.compile(r"[\w.+\-() ]+")


def allowed(expression: str, licences: tuple[str, ...]) -> bool:
    """Whether the expression can be met with these licences: one side of each `OR`, both sides of each `AND`.

    An exception (`WITH`) only adds permissions, so the licence before it decides. What is unknown is allowed only where
    NOASSERTION is. Raises UserError where an expression, or an entry of `licences`, is not SPDX.
    """
    return UNKNOWN in licences if expression == UNKNOWN else _allowed(expression, licences)


def stated(text: str) -> str | None:
    """The expression that a file states in a comment of its first lines, as SPDX and REUSE write it.

    None where it states none; NOASSERTION where it states something that is not an SPDX expression.
    """
    if "SPDX-License-Identifier:" not in text[:4_000]:
        return None
    match = _TAG.search("\n".join(text[:4_000].split("\n", _HEAD_LINES)[:_HEAD_LINES]))
    if match is None:
        return None
    # The end of a comment in C, HTML or CSS may follow on the line.
    expression = re.split(r"\*/|-->|\*\)|#\}", match[1])[0].strip()
    return normalised(expression)


def normalised(expression: str) -> str:
    """The expression as SPDX spells it, `mit` as `MIT`; NOASSERTION where it is not one."""
    if not _EXPRESSION.fullmatch(expression):
        return UNKNOWN
    try:
        return str(_parsed(expression))
    except UserError:
        return UNKNOWN


def joined(names: Sequence[str]) -> str:
    """One expression for several licences found in a repository: all must be met. NOASSERTION where any is unknown."""
    licences = list(dict.fromkeys(normalised(name) for name in names))
    if not licences or UNKNOWN in licences:
        return UNKNOWN
    if len(licences) == 1:
        return licences[0]
    return " AND ".join(f"({name})" if " " in name else name for name in licences)


@functools.cache
def _allowed(expression: str, licences: tuple[str, ...]) -> bool:
    permitted = {str(_parsed(licence)) for licence in licences if licence != UNKNOWN}

    def met(node: object) -> bool:
        match type(node).__name__:
            case "AND":
                return all(met(part) for part in node.args)  # type: ignore[attr-defined]
            case "OR":
                return any(met(part) for part in node.args)  # type: ignore[attr-defined]
            case "LicenseWithExceptionSymbol":
                return str(node) in permitted or met(node.license_symbol)  # type: ignore[attr-defined]
        return str(node) in permitted

    return met(_parsed(expression))


@functools.cache
def _parsed(expression: str) -> object:
    licensing = get_spdx_licensing()
    try:
        unknown = [key for key in licensing.unknown_license_keys(expression) if not key.startswith("LicenseRef-")]
        if unknown:
            raise UserError(f"licence {expression!r}: SPDX lists no {unknown[0]!r}; write an SPDX id or LicenseRef-...")
        parsed: object = licensing.parse(expression, strict=True)
    except (ExpressionError, ExpressionParseError) as error:
        raise UserError(f"licence {expression!r} is not an SPDX expression ({error}); correct it") from error
    if parsed is None:
        raise UserError("an empty licence is not an SPDX expression; state one, or LicenseRef-...")
    return parsed
