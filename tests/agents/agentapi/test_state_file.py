"""AgentAPI's state file as the last source of a conversation."""

import json
import os

import pytest

from agentd.agents.agentapi.state_file import StateFileError, read_state_file
from agentd.conversation.message import Message


def state(messages: object) -> str:
    return json.dumps(
        {"version": 1, "messages": messages, "initial_prompt": "go", "initial_prompt_sent": True}
    )


def test_the_newest_messages_are_read_whose_text_is_called_message(tmp_path):
    path = tmp_path / "agentapi-state.json"
    entries = [{"id": i, "message": f"m{i}", "role": "agent", "time": "t"} for i in range(20)]
    path.write_text(state([*entries, {"id": 0, "message": "", "role": "", "time": ""}]))
    assert read_state_file(path, keep=2) == [
        Message(18, "agent", "m18", "t"),
        Message(19, "agent", "m19", "t"),
    ]


def test_an_empty_conversation_is_one(tmp_path):
    path = tmp_path / "state.json"
    path.write_text(state(None))
    assert read_state_file(path, keep=2) == []


@pytest.mark.parametrize("text", ["", "{", state([])[:-1], '{"version":1}', "<html>", state([]) + "x"])
def test_a_file_that_is_not_agentapis_is_refused(tmp_path, text):
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(StateFileError, match="not AgentAPI's"):
        read_state_file(path, keep=2)


def test_no_file_a_directory_and_a_fifo_are_refused_without_waiting(tmp_path):
    with pytest.raises(StateFileError, match="No such file"):
        read_state_file(tmp_path / "none", keep=1)
    with pytest.raises(StateFileError, match=r"[Dd]irectory|not a file"):
        read_state_file(tmp_path, keep=1)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(StateFileError, match="not a file"):
        read_state_file(tmp_path / "fifo", keep=1)
