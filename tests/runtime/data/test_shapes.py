"""Rows become samples by an explicit shape, and what is wrong with a row is told with its place and column."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.data import shapes
from runtime.data.samples import Message, Sample, Text
from runtime.data.tables import Row
from runtime.errors import Problem

WHERE = "set.jsonl:7"


def read(shape: str, columns: dict[str, str] | None = None, **values: Any) -> Sample | Text:
    result = shapes.sample(Row(values, WHERE), shape, columns)
    assert not isinstance(result, list), result
    return result


def wrongs(shape: str, columns: dict[str, str] | None = None, **values: Any) -> list[str]:
    result = shapes.sample(Row(values, WHERE), shape, columns)
    assert isinstance(result, list)
    assert all(problem.where == WHERE for problem in result)
    return [problem.what for problem in result]


def user(content: str) -> Message:
    return Message("user", content, False)


def assistant(content: str, trained: bool = True) -> Message:
    return Message("assistant", content, trained)


def system(content: str) -> Message:
    return Message("system", content, False)


def said(**turns: str) -> list[dict[str, str]]:
    """Messages from role=content; `user_2` is another of the user's."""
    return [{"role": role.partition("_")[0], "content": content} for role, content in turns.items()]


# -------------------------------------------------------------------------------------------------------- each shape


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        ({}, [user("Add."), assistant("3")]),
        ({"input": ""}, [user("Add."), assistant("3")]),
        ({"input": " \n"}, [user("Add."), assistant("3")]),
        ({"input": None}, [user("Add."), assistant("3")]),
        ({"input": "1, 2"}, [user("Add.\n\n1, 2"), assistant("3")]),
        ({"system": "Be brief."}, [system("Be brief."), user("Add."), assistant("3")]),
    ],
)
def test_alpaca_asks_the_instruction_with_its_input_if_there_is_one(values, messages):
    assert read("alpaca", instruction="Add.", output="3", **values) == Sample(tuple(messages), WHERE)


def test_sharegpt_knows_its_speakers_by_their_names():
    turns = [("system", "S"), ("human", "a"), ("gpt", "b"), ("tool", "c"), ("gpt", "d")]
    sample = read("sharegpt", conversations=[{"from": who, "value": what} for who, what in turns])
    tool = Message("tool", "c", False)
    assert sample == Sample((system("S"), user("a"), assistant("b"), tool, assistant("d")), WHERE)


def test_sharegpts_system_column_comes_first():
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    sample = read("sharegpt", conversations=turns, system="S")
    assert sample == Sample((system("S"), user("a"), assistant("b")), WHERE)


def test_messages_are_taken_as_they_are_and_their_text_parts_joined():
    parts = [{"type": "text", "text": " a"}, {"type": "text", "text": "\nb "}]
    messages = [{"role": "user", "content": parts, "name": None}, {"role": "assistant", "content": "c\n"}]
    assert read("messages", messages=messages) == Sample((user(" a\nb "), assistant("c\n")), WHERE)


def test_empty_answers_and_those_of_weight_0_are_not_trained():
    messages = [
        *said(user="a"),
        {"role": "assistant", "content": "b", "weight": 0},
        *said(user="c", assistant="", user_2="d"),
        {"role": "assistant", "content": "e", "weight": 1},
    ]
    sample = read("messages", messages=messages)
    assert isinstance(sample, Sample)
    assert [m.trained for m in sample.messages if m.role == "assistant"] == [False, False, True]


def test_of_prompt_and_completion_only_the_completion_is_trained():
    assert read("prompt_completion", prompt="a", completion="b") == Sample((user("a"), assistant("b")), WHERE)
    prompt, completion = said(user="a", assistant="b", user_2="c"), said(assistant="d")
    sample = read("prompt_completion", prompt=prompt, completion=completion)
    assert sample == Sample((user("a"), assistant("b", False), user("c"), assistant("d")), WHERE)
    assert read("prompt_completion", prompt=said(user="a"), completion="b") == Sample(
        (user("a"), assistant("b")), WHERE
    )


def test_text_stays_as_it_is():
    assert read("text", text=" a\n") == Text(" a\n", WHERE)


def test_columns_are_read_under_the_names_they_are_mapped_to():
    columns = {"instruction": "question", "output": "answer"}
    sample = read("alpaca", columns, question="a", answer="b", instruction="not this")
    assert sample == Sample((user("a"), assistant("b")), WHERE)


# ------------------------------------------------------------------------------------------------------ wrong columns


@pytest.mark.parametrize(
    ("shape", "values", "expected"),
    [
        ("alpaca", {"instruction": "a"}, ["has no column `output`"]),
        ("alpaca", {}, ["has no column `instruction`", "has no column `output`"]),
        ("alpaca", {"instruction": " ", "output": ""}, ["`instruction` is empty", "`output` is empty"]),
        ("alpaca", {"instruction": "a", "output": 3}, ["`output` must be text, got the number 3"]),
        ("alpaca", {"instruction": "a", "output": None}, ["`output` must be text, got null"]),
        ("alpaca", {"instruction": "a\0", "output": "b"}, ["`instruction` has a NUL"]),
        ("alpaca", {"instruction": "a", "output": "b", "input": ["c"]}, ["`input` must be text, got a list"]),
        ("text", {"text": {}}, ["`text` must be text, got an object"]),
        (
            "messages",
            {"messages": "[]"},
            ["`messages` must be a list of messages [{role, content}, …], got text"],
        ),
        ("messages", {"messages": []}, ["`messages` has no messages"]),
        (
            "prompt_completion",
            {"prompt": True, "completion": "b"},
            ["`prompt` must be text or a list of messages"],
        ),
    ],
)
def test_a_wrong_column_is_named_with_what_was_expected(shape, values, expected):
    found = wrongs(shape, **values)
    for what, said_ in zip(found, expected, strict=False):
        assert said_ in what
    assert len(found) >= len(expected)


def test_a_mapped_column_that_a_row_lacks_is_told_though_it_is_optional():
    assert "has no column `context`" in wrongs("alpaca", {"input": "context"}, instruction="a", output="b")[0]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("hi", "`messages[1]` must be an object {role, content}, got text"),
        (
            {"role": "bot", "content": "b"},
            "`messages[1].role` must be one of system, user, assistant, tool, got 'bot'",
        ),
        ({"role": ["user"], "content": "b"}, "`messages[1].role` must be one of"),
        ({"content": "b"}, "`messages[1]` has no `role`"),
        ({"role": "assistant"}, "`messages[1]` has no `content`"),
        ({"role": "assistant", "content": 1}, "`messages[1].content` must be text, got the number 1"),
        ({"role": "user", "content": " "}, "`messages[1].content` is empty"),
        (
            {"role": "assistant", "content": "b", "tool_calls": [{}]},
            "a key `tool_calls`, which lorac does not read",
        ),
        (
            {"role": "assistant", "content": "b", "weight": 0.5},
            "`messages[1].weight` must be 0 or 1, got 0.5",
        ),
        (
            {"role": "assistant", "content": "b", "weight": True},
            "`messages[1].weight` must be 0 or 1, got True",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},
            "`messages[1].content[0]` must be {type: \"text\", text}, got type 'image_url'",
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": 1}]},
            "`messages[1].content[0].text` must be text",
        ),
        ({"role": "user", "content": []}, "`messages[1].content` is empty"),
    ],
)
def test_a_wrong_message_is_named_by_its_place(message, expected):
    found = wrongs("messages", messages=[*said(user="a"), message, *said(assistant="c")])
    assert expected in found[0]


def test_all_that_is_wrong_with_a_row_is_told_at_once():
    messages = [{"role": "bot", "content": 1, "x": 2}, 5]
    assert len(wrongs("messages", messages=messages)) == 4


@pytest.mark.parametrize(
    ("shape", "column", "message", "hint"),
    [
        (
            "sharegpt",
            "conversations",
            {"role": "user", "content": "a"},
            'columns={"messages": "conversations"}',
        ),
        ("messages", "messages", {"from": "human", "value": "a"}, 'columns={"conversations": "messages"}'),
    ],
)
def test_messages_of_the_other_shape_are_told_how_to_read_them(shape, column, message, hint):
    result = shapes.sample(Row({column: [message]}, WHERE), shape)
    assert isinstance(result, list) and all(hint in problem.hint for problem in result)


# -------------------------------------------------------------------------------------------------------------- turns


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (said(assistant="a"), "message 1 is assistant's and comes first; system or user is wanted there"),
        (
            said(user="a", user_2="b", assistant="c"),
            "message 2 is user's and follows user's; assistant is wanted",
        ),
        (said(user="a", assistant="b", assistant_2="c"), "message 3 is assistant's and follows assistant's"),
        (said(user="a", system="b", assistant="c"), "message 2 is system's and follows user's"),
        (said(user="a", tool="b", assistant="c"), "message 2 is tool's and follows user's"),
        (said(user="a", assistant="b", user_2="c"), "the last message is user's; the assistant's is wanted"),
        (said(user="a", assistant=" "), "no message of the assistant's is to be learned"),
        (
            [*said(user="a"), {"role": "assistant", "content": "b", "weight": 0}],
            "no message of the assistant's is",
        ),
    ],
)
def test_turns_that_no_chat_has_are_refused(messages, expected):
    assert any(expected in what for what in wrongs("messages", messages=messages))


def test_two_system_messages_of_sharegpt_are_refused():
    turns = [{"from": who, "value": "a"} for who in ("system", "human", "gpt")]
    assert (
        "has a system message in `system` and in `conversations`"
        in wrongs("sharegpt", conversations=turns, system="S")[0]
    )


# ---------------------------------------------------------------------------------------------------------- detection


@pytest.mark.parametrize(
    ("present", "shape"),
    [
        (["instruction", "input", "output"], "alpaca"),
        (["id", "conversations"], "sharegpt"),
        (["messages", "source"], "messages"),
        (["prompt", "completion"], "prompt_completion"),
        (["text"], "text"),
    ],
)
def test_a_shape_is_known_by_its_columns(present, shape):
    assert shapes.detect(Row(dict.fromkeys(present, ""), WHERE)) == shape


def test_a_mapping_makes_other_names_a_shapes():
    row = Row({"question": "a", "answer": "b", "text": "c"}, WHERE)
    assert shapes.detect(row, {"prompt": "question", "completion": "answer"}) == "prompt_completion"


def test_columns_of_several_shapes_are_a_problem_that_names_them():
    found = shapes.detect(Row({"instruction": "a", "output": "b", "text": "c"}, WHERE))
    assert isinstance(found, Problem)
    assert found.where == WHERE and "alpaca, text" in found.what


def test_columns_of_no_shape_are_a_problem_that_names_all_shapes():
    found = shapes.detect(Row({"question": "a"}, WHERE))
    assert isinstance(found, Problem)
    assert "`question`" in found.what and all(name in found.what for name in shapes.SHAPES)


def test_a_mapping_of_columns_that_no_shape_has_is_a_problem_of_the_mapping():
    found = shapes.detect(Row({"text": "a"}, WHERE), {"question": "text"})
    assert isinstance(found, Problem)
    assert found.where == "columns" and "no shape has the columns `question`" in found.what


@pytest.mark.parametrize(
    ("shape", "columns", "expected"),
    [
        ("alpaka", {}, "there is no shape 'alpaka'"),
        ("alpaca", {"question": "q"}, "shape alpaca has no column 'question'"),
        ("alpaca", {"output": "instruction"}, "are both read from the file's `instruction`"),
        ("prompt_completion", {"prompt": "completion"}, "are both read from the file's `completion`"),
    ],
)
def test_a_mapping_that_cannot_be_is_told_before_any_row(shape, columns, expected):
    (problem,) = shapes.wrong_columns(shape, columns)
    assert expected in problem.what


def test_a_mapping_may_swap_columns():
    assert shapes.wrong_columns("prompt_completion", {"prompt": "completion", "completion": "prompt"}) == []
