import json
from typing import Any

import pytest

from data_pipeline.sources.row_layouts import RowContent, conversation, function, instruction, plain

USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}


def turns_of(found: RowContent | str) -> list[tuple[str, str]]:
    assert isinstance(found, RowContent), found
    assert found.language == "conversation"
    return [(turn["role"], turn["content"]) for turn in map(json.loads, found.text.splitlines())]


def test_a_conversation_may_have_a_system_message_and_many_turns() -> None:
    for turns in ([USER, ASSISTANT], [SYSTEM, USER, ASSISTANT], [USER, ASSISTANT] * 3):
        said = [(turn["role"], turn["content"]) for turn in turns]
        assert turns_of(conversation({"messages": turns, "other": 1})) == said


def test_openai_may_split_content_into_parts() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    row = {"messages": [{"role": "developer", "content": "s"}, {"role": "user", "content": parts}, ASSISTANT]}
    assert turns_of(conversation(row)) == [("system", "s"), ("user", "one two"), ("assistant", "a")]
    image = [{"type": "image_url", "image_url": {"url": "x"}}]
    assert conversation({"messages": [USER | {"content": image}, ASSISTANT]}) == "message without a known role and text"


def test_sharegpt_calls_them_human_and_gpt() -> None:
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert turns_of(conversation({"id": "x_0", "conversations": turns})) == [("user", "q"), ("assistant", "a")]
    assert turns_of(conversation({"system": "s", "conversations": turns}))[0] == ("system", "s")
    assert conversation({"conversations": turns[1:]}) == "turns out of order"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"messages": [USER]}, "turns out of order"),
        ({"messages": [ASSISTANT, USER]}, "turns out of order"),
        ({"messages": [USER, ASSISTANT, SYSTEM]}, "turns out of order"),
        ({"messages": []}, "turns out of order"),
        ({"messages": [USER, ASSISTANT | {"content": " "}]}, "empty message"),
        ({"messages": [USER, ASSISTANT | {"content": None}]}, "message without a known role and text"),
        ({"messages": [USER | {"role": ["user"]}, ASSISTANT]}, "message without a known role and text"),
        ({"messages": [USER, {"role": "tool", "content": "x"}, ASSISTANT]}, "message without a known role and text"),
        ({"messages": ["q", "a"]}, "no list of messages"),
        ({"dialog": []}, "no list of messages"),
    ],
)
def test_an_odd_conversation_has_a_reason(record: dict[str, object], reason: str) -> None:
    assert conversation(record) == reason


def test_instructions_of_alpaca_and_dolly() -> None:
    alpaca = {"instruction": "Add them.", "input": "1, 2", "output": "3"}
    assert turns_of(instruction(alpaca)) == [("user", "Add them.\n\n1, 2"), ("assistant", "3")]
    assert turns_of(instruction(alpaca | {"input": ""}))[0] == ("user", "Add them.")
    dolly = {"instruction": "Who?", "context": "", "response": "Me.", "category": "open_qa"}
    assert turns_of(instruction(dolly)) == [("user", "Who?"), ("assistant", "Me.")]
    assert instruction({"instruction": "Who?"}) == "no `instruction` and `output` or `response`"
    assert instruction(alpaca | {"output": " "}) == "empty message"


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ({"text": "x", "meta": {"file_name": "a.py"}}, ("python", "x", None, "", "a.py")),
        ({"content": "x", "max_stars_repo_path": "a/b.rs", "lang": "Unheard-of"}, ("rust", "x", None, "", "a/b.rs")),
        (
            {"content": "x", "path": "a.go", "license": "apache-2.0", "repo_name": "o/r"},
            ("go", "x", "Apache-2.0", "o/r", "a.go"),
        ),
        ({"content": "x", "lang": "C++", "max_stars_repo_licenses": ["MIT"]}, ("cpp", "x", "MIT")),
        ({"text": "x", "detected_licenses": ["MIT", "GPL-3.0-only"]}, ("text", "x", "MIT AND GPL-3.0-only")),
        ({"text": "x", "licenses": ["MIT", "who knows"]}, ("text", "x", "NOASSERTION")),
        ({"text": "x", "licenses": []}, ("text", "x", None)),
        ({"text": "x"}, ("text", "x", None)),
    ],
)
def test_language_and_licence_come_from_the_row(record: dict[str, object], found: tuple[Any, ...]) -> None:
    assert plain(record) == RowContent(*found)


def test_a_row_without_text_has_a_reason() -> None:
    assert plain({"text": 1}) == "no text under `text` or `content`"


def test_functions_of_codesearchnet() -> None:
    assert function({"language": "go", "original_string": "func", "code": "c"}) == RowContent("go", "func")
    assert function({"language": "go", "whole_func_string": "func"}) == RowContent("go", "func")
    assert function({"language": "go"}) == "no `original_string` and `language`"


def test_an_empty_column_does_not_hide_a_filled_one() -> None:
    row = {"instruction": "Sum up.", "input": "", "context": "The text.", "output": " ", "response": "Short."}
    assert turns_of(instruction(row)) == [("user", "Sum up.\n\nThe text."), ("assistant", "Short.")]
    assert turns_of(instruction(row | {"input": None, "output": None}))[0] == ("user", "Sum up.\n\nThe text.")
    assert isinstance(plain({"text": "", "content": "x"}), RowContent)
    assert plain({"text": "", "content": "x"}).text == "x"  # type: ignore[union-attr]
    assert plain({"text": None, "content": "x"}).text == "x"  # type: ignore[union-attr]
    assert function({"language": "go", "original_string": "", "whole_func_string": "f"}).text == "f"  # type: ignore[union-attr]
    turns = [{"from": "human", "value": "Hello."}, {"role": "", "from": "gpt", "content": "", "value": "Hi."}]
    assert turns_of(conversation({"messages": [], "conversations": turns})) == [
        ("user", "Hello."),
        ("assistant", "Hi."),
    ]
    assert plain({"text": ""}) == RowContent("text", "")


def test_the_first_line_of_code_keeps_its_indentation() -> None:
    code = "    def total(self):\n        return sum(self)\n"
    row = {"instruction": "\n  Complete:\n", "input": f"\n \n{code}", "output": f"\n\t\n{code}\n\n"}
    assert turns_of(instruction(row)) == [("user", f"  Complete:\n\n{code.rstrip()}"), ("assistant", code.rstrip())]
