import pytest

from specs.common import progress
from specs.common.progress import Progress


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_the_last_line_is_printed_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: float
) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", seconds)
    with Progress("work", total=2, unit="steps") as counted:
        counted.advance()
        counted.advance()
    lines = [line.split(", ")[0] for line in capsys.readouterr().err.splitlines()]
    # Where lines are due at once, each count has its own; the last is not said again at the end.
    assert lines == (["work: 1/2 steps"] if not seconds else []) + ["work: 2/2 steps"]


def test_a_note_that_came_after_the_last_line_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    with Progress("work", total=1) as counted:
        counted.advance()
        counted.note = "loss 1.5"
    assert capsys.readouterr().err.splitlines()[-1].endswith("loss 1.5")
