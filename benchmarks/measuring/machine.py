"""What kind of machine this is: figures of one kind are no measure for another."""

import json
import os
import re
import sys
from pathlib import Path

import click

BASELINES = Path(__file__).resolve().parents[1] / "baselines"


def facts() -> dict[str, object]:
    """Processor, cores that this process may use, memory, and the instructions that decide how fast bf16 is."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(told.get("flags", "").split())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "model": told.get("model name", "unknown"),
        "cores": len(os.sched_getaffinity(0)),
        "memory": memory,
        "bf16": sorted(flags & {"avx512_bf16", "amx_bf16"}),
    }


def kind() -> str:
    """The kind as a file name, such as `amd-epyc-2-cores-amx`."""
    told = facts()
    words = [str(told["model"]), f"{told['cores']} cores", *map(str, told["bf16"])]  # type: ignore[call-overload]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


def gpu() -> str | None:
    """Name of the CUDA device; none where there is none."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


@click.command(
    epilog="Example: pytest benchmarks --benchmark-compare=$(python -m benchmarks.measuring.machine --baseline)"
)
@click.option("--baseline", is_flag=True, help="Print the path of this kind's baseline; exit code 1 if there is none.")
def main(baseline: bool) -> None:
    """Print what kind of machine this is."""
    if not baseline:
        click.echo(json.dumps({"kind": kind()} | facts(), indent=2))
        return
    path = BASELINES / f"{kind()}.json"
    click.echo(path)
    sys.exit(0 if path.exists() else 1)


if __name__ == "__main__":
    main()
