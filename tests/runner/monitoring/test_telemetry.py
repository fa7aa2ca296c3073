"""Telemetry never ends a run."""

import errno
from pathlib import Path
from typing import Any

import pytest

from runner.monitoring.telemetry import Telemetry

ENTRY = {"step": 1, "loss": 2.5, "norm": 1.0, "lr": 0.1}


def telemetry(folder: Path, **more: Any) -> Telemetry:
    return Telemetry(folder, "pretrain tiny", 2, 100, 1e9, None, **more)


def tell(told: Telemetry) -> None:
    told.note("environment.json", {"ranks": 1})
    told.begin(0)
    for step in (1, 2):
        told.step(ENTRY | {"step": step}, 0.5, 0.1)
    told.close()
    told.note("throughput.json", told.summary())


def test_a_run_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tell(telemetry(tmp_path / "measured"))
    names = sorted(path.name.split(".")[0] for path in (tmp_path / "measured").iterdir())
    assert names == ["environment", "events", "telemetry", "throughput"]
    assert "pretrain tiny: 2/2 steps" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "measured").write_text("a file", "utf-8")
    tell(telemetry(tmp_path / "measured", trace=(1, 2)))
    said = capsys.readouterr().err
    assert said.count("no more telemetry of this run") == 1 and "pretrain tiny: 2/2 steps" in said


@pytest.mark.parametrize("part", ["add_scalar", "close", "flush"])
def test_a_disk_that_fills_up_ends_the_telemetry_alone(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"torch.utils.tensorboard.SummaryWriter.{part}", full)
    tell(telemetry(tmp_path / "measured"))
    assert capsys.readouterr().err.count("No space left on device") == (0 if part == "flush" else 1)
