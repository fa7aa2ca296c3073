"""Draws the pictures of docs/review.md and docs/plan.md from what the commands really print.

    python docs/pictures/draw.py

Works on a clone of HEAD in a temporary folder. Terminals become SVG, with rich; the review comment becomes PNG, with a
headless `chromium` on PATH (left out where there is none).
"""

import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import markdown
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# The format asks a server for its font: a picture should load nothing.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ font: 14px/1.5 "DejaVu Sans", sans-serif; color: #1f2328; margin: 16px; width: 1168px; background: #fff }}
table {{ border-collapse: collapse; margin: 0 0 12px }} th, td {{ border: 1px solid #d1d9e0; padding: 5px 12px }}
tr:nth-child(2n) {{ background: #f6f8fa }} h3 {{ font-size: 18px; margin: 0 0 12px }}
code {{ font: 12px "DejaVu Sans Mono", monospace; background: #eff1f3; padding: 2px 4px; border-radius: 6px }}
blockquote {{ color: #59636e; border-left: 4px solid #d1d9e0; margin: 0 0 12px; padding: 0 14px }}
</style><body>{}"""


def said(root: Path, command: str) -> str:
    """What a command prints on a terminal, with colours."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "GIT_PAGER": "cat",
        "COLUMNS": "132",
        "TERM": "xterm-256color",
    }
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(["bash", "-c", command], cwd=root, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    text = b""
    while True:
        try:
            read = os.read(ours, 65_536)
        except OSError:  # the other end closed
            break
        if not read:
            break
        text += read
    process.wait()
    os.close(ours)
    return text.decode().replace("\r\n", "\n")


def draw(root: Path, name: str, command: str, lines: int = 100) -> None:
    """A terminal in which a command was typed."""
    found = said(root, command).rstrip("\n").splitlines()
    text = Text.from_ansi("\n".join([f"$ {command}", *found[:lines], *(["..."] if len(found) > lines else [])]))
    console = Console(record=True, width=132, file=Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until this ends
    console.print(text, soft_wrap=False)
    (HERE / name).write_text(
        console.export_svg(title="", code_format=FORMAT, unique_id=Path(name).stem), encoding="utf-8"
    )


def draw_comment(root: Path, name: str, command: str) -> None:
    """A comment as a review page renders its markdown."""
    page = root.parent / "comment.html"
    page.write_text(
        PAGE.format(markdown.markdown(said(root, command), extensions=["tables", "nl2br"])), encoding="utf-8"
    )
    chromium = shutil.which("chromium")
    if chromium is None:
        print(f"{name} is left as it is: there is no chromium")
        return
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1200,775"]
    subprocess.run(
        [chromium, *options, f"--screenshot={HERE / name}", page.as_uri()], check=True, capture_output=True, timeout=120
    )


def edit(root: Path, path: str, *changes: tuple[str, str]) -> None:
    """Replace texts in a file; each must be there."""
    text = (root / path).read_text("utf-8")
    for old, new in changes:
        assert old in text, (path, old)
        text = text.replace(old, new)
    (root / path).write_text(text, "utf-8")


def main() -> None:
    """Draw them all."""
    smoke, large = "specs/experiments/smoke.yaml", "specs/experiments/code-34b.yaml"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "twice"
        subprocess.run(["git", "clone", "-q", "--no-local", ROOT, root], check=True)
        said(root, "git checkout -q -B main; git config diff.twice.command 'twice diff --git'; pre-commit install")
        said(root, "git config user.name you; git config user.email you@example.org")
        edit(root, large, ("d_ff: 38_400", "d_ff: 20_480"), ("{lr: 2e-5}", "{lr: 1e-4}"))
        draw(root, "check.svg", f"twice check {large}", 46)
        draw_comment(root, "comment.png", f"twice diff main:{large} {large} --format markdown")
        said(root, "git checkout -q .")
        edit(root, smoke, ("warmup_steps: 20", "warmup_steps: 40"))
        draw(root, "git-diff.svg", "git diff")
        draw(root, "pre-commit.svg", "git commit -am 'longer warm-up'")
        draw(root, "plan.svg", f"twice plan {large} --devices 64")
        said(root, f"git checkout -q .; twice plan {large} --picture {HERE / 'memory.svg'}")


if __name__ == "__main__":
    main()
