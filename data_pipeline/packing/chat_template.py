"""The chat template `turns-v1`: conversations as token ids, and which of them are an answer to learn.

    <system> text <end> <user> text <end> <assistant> text <end> ...

There is no white space between the parts. Roles are control tokens, so no text can forge a turn.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_pipeline.documents.documents import Message
from data_pipeline.tokens.tokenizer import Ids, Special, Tokenizer
from specs.common.errors import UserError

TEMPLATE = "turns-v1"
OPENINGS = {"system": Special.SYSTEM, "user": Special.USER, "assistant": Special.ASSISTANT}
"""Control token that opens a turn, by role."""


@dataclass(frozen=True)
class Rendered:
    """Token ids and, beside each, whether it is a target to learn."""

    ids: Ids
    """uint16 `[n]`"""
    loss: npt.NDArray[np.uint8]
    """uint8 `[n]`: 1 for a target."""


def render(
    conversations: Sequence[Sequence[Message]], tokenizer: Tokenizer, threads: int | None = None
) -> list[Rendered]:
    """Ids of each conversation; targets are exactly what the assistant says and the `<end>` after it.

    Raises UserError for an unknown role or a text that is not valid Unicode.
    """
    encoded = iter(tokenizer.encode_batch([message.content for turns in conversations for message in turns], threads))
    return [_join(turns, encoded) for turns in conversations]


def render_prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> Ids:
    """Ids `[n]` of a conversation, up to and including the `<assistant>` after which the model answers."""
    ids = render([messages], tokenizer)[0].ids
    return np.append(ids, np.uint16(Special.ASSISTANT))


def require_template(name: str) -> None:
    """Raise UserError where a chat template is asked for that this module does not render."""
    if name != TEMPLATE:
        raise UserError(f"chat template {name!r} is unknown; write {TEMPLATE}")


def _join(turns: Sequence[Message], encoded: Iterator[Ids]) -> Rendered:
    ids: list[Ids] = []
    loss: list[npt.NDArray[np.uint8]] = []
    for message in turns:
        if message.role not in OPENINGS:
            raise UserError(f"role {message.role!r} is unknown; write one of {', '.join(OPENINGS)}")
        content = next(encoded)
        turn = np.concatenate([[OPENINGS[message.role]], content, [Special.END]]).astype(np.uint16)
        learnt = np.full(len(turn), message.role == "assistant", np.uint8)
        # The role itself is given to the model, never asked of it.
        learnt[0] = 0
        ids.append(turn)
        loss.append(learnt)
    if not ids:
        return Rendered(np.zeros(0, np.uint16), np.zeros(0, np.uint8))
    return Rendered(np.concatenate(ids), np.concatenate(loss))
