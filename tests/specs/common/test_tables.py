"""Tables that people read."""

import pytest

from specs.common.tables import print_table


def test_a_narrow_terminal_cuts_neither_a_name_nor_a_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "22")
    print_table(("evaluation", "pass@10"), [("smoke-humaneval", "0.123456"), ("basics", "1")], "Scores", words=1)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 22 and not any("…" in line for line in lines)
    assert "".join(line[:12].strip() for line in lines[3:]) == "smoke-humanevalbasics"
    assert [line.split()[-1] for line in lines if line.strip()[-1:].isdigit()][1:] == ["0.123456", "1"]
