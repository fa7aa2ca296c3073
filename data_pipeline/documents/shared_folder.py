"""Whether every node of a Ray cluster sees the folder that parts are written to."""

import uuid
from pathlib import Path
from typing import Any

from specs.common.errors import UserError

_SECONDS = 60


def require_shared(folder: Path) -> None:
    """Raise UserError naming the nodes of the connected cluster that do not see a folder that this machine writes."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    folder.mkdir(parents=True, exist_ok=True)
    mark = folder.resolve() / f"seen-by-every-node-{uuid.uuid4().hex}"
    mark.touch()

    # Defined here so that it travels whole: on a node without the folder the project is missing too.
    def sees(path: Path) -> bool:
        return path.exists()

    try:
        nodes: list[dict[str, Any]] = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        look = ray.remote(num_cpus=0, max_retries=0)(sees)
        strategies = [On(node["NodeID"], soft=False) for node in nodes]
        answers = [look.options(scheduling_strategy=strategy).remote(mark) for strategy in strategies]
        ready, _ = ray.wait(answers, num_returns=len(answers), timeout=_SECONDS)
        blind = [
            node["NodeManagerAddress"]
            for node, answer in zip(nodes, answers, strict=True)
            if answer not in ready or not ray.get(answer)
        ]
    finally:
        mark.unlink()
    if blind:
        raise UserError(
            f"{folder}: not seen by {', '.join(sorted(blind))} of the Ray cluster; let every node mount it at this "
            "path (settings.yaml, `scratch`), or run the stage with --engine native"
        )
