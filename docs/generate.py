"""Writes what the docs repeat of the code: the list of modules, and the table of every field of a spec.

python docs/generate.py            write them
python docs/generate.py --check    exit code 1 if a page is stale
"""

import ast
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from specs.loading.json_schema import json_schema
from specs.loading.load import load_experiment
from specs.pipeline.dvc_graph import expand, lock_of, reruns
from specs.schema.experiment import Experiment

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("specs", "data_pipeline", "model", "evaluation", "runner", "benchmarks")
_WRAPPER = textwrap.TextWrapper(118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def modules() -> str:
    """A heading for each folder, a line for each room and module, from the first paragraph of its docstring."""
    lines = []
    for folder in FOLDERS:
        for room in sorted({path.parent for path in (ROOT / folder).rglob("*.py")}):
            name = room.relative_to(ROOT).as_posix()
            title = f"### `{name}/`" if name == folder else f"**`{name}/`**"
            lines += ["", title, "", _summary(room / "__init__.py"), ""]
            for path in sorted(room.glob("*.py")):
                if path.name != "__init__.py":
                    lines += _WRAPPER.wrap(f"- `{path.name}`: {_summary(path)}")
    return "\n".join(lines).strip() + "\n"


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def fields() -> str:
    """A table for each section of a spec: field, type and unit, default, meaning, first stage that it re-runs."""
    schema = json_schema()
    stages = _stages()
    lines = []
    for name, section in {"Experiment": schema, **dict(sorted(schema["$defs"].items()))}.items():
        if not section.get("properties"):
            continue
        summary = " ".join(section.get("description", "").split("\n\n")[0].split())
        lines += ["", f"### {name}", "", summary, "", "| field | type | default | meaning | re-runs from |"]
        lines += ["|---|---|---|---|---|"]
        required = section.get("required", ())
        for field, value in section["properties"].items():
            default = "required" if field in required else _default(value)
            cells = (f"`{field}`", _type(value), default, value.get("description", ""), stages.get((name, field), ""))
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines).strip() + "\n"


def _default(value: dict[str, Any]) -> str:
    if "default" not in value:
        return ""
    default = value["default"]
    if isinstance(default, dict):
        return "its defaults"
    text = "none" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
    if isinstance(default, list):
        text = ", ".join(map(str, default)) if all(isinstance(item, str) for item in default) else "see the code"
    return f"`{text}`" if text else ""


def _type(value: dict[str, Any]) -> str:
    kinds = [_one_type(option) for option in value.get("anyOf", value.get("oneOf", [value]))]
    unit = value.get("unit") or next((option["unit"] for option in value.get("anyOf", ()) if "unit" in option), "")
    text = " or ".join(dict.fromkeys(kind for kind in kinds if kind not in ("null", "")))
    return text if unit and text.endswith(unit) else ", ".join(part for part in (text, unit or _range(value)) if part)


def _range(value: dict[str, Any]) -> str:
    """The range of a number, such as `above 0`."""
    words = {"exclusiveMinimum": "above", "minimum": "from", "exclusiveMaximum": "below", "maximum": "to"}
    options = [value, *value.get("anyOf", ())]
    limits = {key: option[key] for key in words for option in options if key in option}
    return " ".join(f"{words[key]} {limit:g}" for key, limit in limits.items())


def _one_type(option: dict[str, Any]) -> str:
    if "$ref" in option:
        name = option["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "enum" in option:
        return ", ".join(f"`{choice}`" for choice in option["enum"])
    if "const" in option:
        return f"`{option['const']}`"
    if option.get("pattern", "").startswith(("^[+-]", "^\\.")):
        return ""  # a number as people write it, or the file that holds the section
    if "anyOf" in option or "oneOf" in option:
        return _type(option)
    if option.get("type") == "array":
        return f"list of {_type(option.get('items', {})) or 'values'}"
    return {"integer": "whole number", "string": "text", "boolean": "true or false"}.get(
        str(option.get("type")), str(option.get("type", ""))
    )


def _stages() -> dict[tuple[str, str], str]:
    """By section and field: the first stage that another value re-runs, tried on the experiment `smoke`."""
    smoke = load_experiment(ROOT / "specs" / "experiments" / "smoke.yaml")
    pipeline = (ROOT / "dvc.yaml").read_text("utf-8")
    before, order = expand(pipeline, lock_of(smoke)), list(expand(pipeline, lock_of(smoke)))
    stages: dict[tuple[str, str], str] = {}
    for section, field, path, value in _values(smoke, ()):
        if (section, field) in stages:
            continue
        for other in _others(value):
            try:
                changed = Experiment.model_validate(_edited(smoke, path, other))
            except ValidationError:
                continue
            result = reruns(before, expand(pipeline, lock_of(changed)))
            names = [name for name in result.changed if name not in result.checks]
            first = min(names, key=lambda name: order.index(name) if name in order else -1, default="")
            stages[section, field] = f"`{first.partition('@')[0]}`" if first else "nothing"
            break
    return stages


def _values(section: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str, str, tuple[str | int, ...], Any]]:
    for field in type(section).model_fields:
        value = getattr(section, field)
        yield type(section).__name__, field, (*path, field), value
        for index, item in enumerate(value if isinstance(value, tuple) else [value]):
            if hasattr(type(item), "model_fields"):
                yield from _values(item, (*path, field, index) if isinstance(value, tuple) else (*path, field))


def _others(value: Any) -> list[Any]:
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1, value * 2, value // 2]
        case float():
            return [value / 2, value * 2, 0.5]
        case str():
            known = [option for options in _CHOICES for option in options if value in options]
            return [*(option for option in known if option != value), f"{value}x", value[1:] + value[:1], "MIT"]
        case tuple():
            return [[], value[:1], ["MIT"], ["basics"]]
        case None:
            return [1, 0.5, "another", {"rate": 0.5}, {"value": 1}]
    return [None]


def _choices(node: Any) -> Iterator[list[str]]:
    if isinstance(node, dict):
        if "enum" in node:
            yield node["enum"]
        for inner in node.values():
            yield from _choices(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _choices(inner)


_CHOICES = list(_choices(json_schema()))


def _edited(experiment: Experiment, path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    plain = at = experiment.model_dump(mode="json")
    for part in path[:-1]:
        at = at[part]  # type: ignore[index]
    at[path[-1]] = value  # type: ignore[index]
    return plain


PAGES = {"architecture.md": ("modules", modules), "spec.md": ("fields", fields)}


def main() -> None:
    """Write the pages, or with --check compare them."""
    for name, (part, render) in PAGES.items():
        page, begin, end = ROOT / "docs" / name, f"<!-- {part} -->\n", f"<!-- /{part} -->\n"
        text = page.read_text("utf-8")
        head, _, rest = text.partition(begin)
        fresh = f"{head}{begin}{render()}{end}{rest.partition(end)[2]}"
        if fresh != text and "--check" in sys.argv:
            sys.exit(f"docs/{name} is stale: run `python docs/generate.py`")
        if fresh != text:
            page.write_text(fresh, "utf-8")


if __name__ == "__main__":
    main()
