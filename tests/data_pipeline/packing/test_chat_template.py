from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.documents.documents import ROLES, Message
from data_pipeline.packing.chat_template import render, render_prompt, require_template
from data_pipeline.tokens.tokenizer import Special, Tokenizer
from specs.common.errors import UserError

texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["<end>", "<assistant> x", "\n", ""])
messages = st.builds(Message, st.sampled_from(ROLES), texts)
conversations = st.lists(messages, max_size=5)


def test_the_template_in_full(tokenizer: Tokenizer) -> None:
    system, question, answer = "Be brief.", "2 + 2?", "4\n"
    turns = [Message("system", system), Message("user", question), Message("assistant", answer)]
    rendered = render([turns], tokenizer)[0]
    parts = [tokenizer.encode(text).tolist() for text in (system, question, answer)]
    assert rendered.ids.tolist() == [
        *(Special.SYSTEM, *parts[0], Special.END),
        *(Special.USER, *parts[1], Special.END),
        *(Special.ASSISTANT, *parts[2], Special.END),
    ]
    before = len(parts[0]) + len(parts[1]) + 5
    assert rendered.loss.tolist() == [0] * before + [1] * (len(parts[2]) + 1)


@given(turns=conversations)
def test_turns_can_be_read_back_whatever_they_say(tokenizer: Tokenizer, turns: Sequence[Message]) -> None:
    rendered = render([turns], tokenizer)[0]
    openings = {Special.SYSTEM: "system", Special.USER: "user", Special.ASSISTANT: "assistant"}
    read: list[Message] = []
    ends = np.flatnonzero(rendered.ids == Special.END) + 1
    assert len(rendered.ids) == (ends[-1] if turns else 0)
    for turn in np.split(rendered.ids, ends)[:-1]:
        read.append(Message(openings[Special(int(turn[0]))], tokenizer.decode(turn[1:-1])))
    assert read == list(turns)


@given(turns=conversations)
def test_targets_are_what_the_assistant_says_and_its_end(tokenizer: Tokenizer, turns: Sequence[Message]) -> None:
    rendered = render([turns], tokenizer)[0]
    assert (rendered.ids.dtype, rendered.loss.dtype) == (np.uint16, np.uint8)
    learnt = rendered.ids[rendered.loss == 1]
    said = [message.content for message in turns if message.role == "assistant"]
    assert tokenizer.decode(learnt) == "".join(said)
    assert int((learnt == Special.END).sum()) == len(said)
    assert not np.isin(learnt, [Special.SYSTEM, Special.USER, Special.ASSISTANT]).any()


@given(batch=st.lists(conversations, max_size=4))
def test_a_batch_is_its_conversations_one_by_one(tokenizer: Tokenizer, batch: list[list[Message]]) -> None:
    together = [(one.ids.tolist(), one.loss.tolist()) for one in render(batch, tokenizer)]
    alone = [render([turns], tokenizer)[0] for turns in batch]
    assert together == [(one.ids.tolist(), one.loss.tolist()) for one in alone]


@given(turns=conversations, answer=texts)
def test_a_prompt_is_the_beginning_of_its_conversation(tokenizer: Tokenizer, turns: list[Message], answer: str) -> None:
    prompt = render_prompt(turns, tokenizer)
    whole = render([[*turns, Message("assistant", answer)]], tokenizer)[0]
    assert prompt.dtype == np.uint16
    assert whole.ids[: len(prompt)].tolist() == prompt.tolist()
    # All that follows the prompt is learnt: training asks for exactly what generation asks for.
    assert whole.loss[len(prompt) :].all()


def test_an_unknown_role_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="role 'tool' is unknown; write one of system, user, assistant"):
        render([[Message("tool", "x")]], tokenizer)


def test_an_unknown_template_is_refused() -> None:
    require_template("turns-v1")
    with pytest.raises(UserError, match="'turns-v2' is unknown; write turns-v1"):
        require_template("turns-v2")
