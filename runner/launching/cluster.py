"""Where the ranks of a training phase run: a cluster profile, which belongs to a site and never to an experiment."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from specs.common.errors import UserError
from specs.loading.load import load_section
from specs.loading.settings import ROOT, load_settings
from specs.loading.yaml_reader import read_document
from specs.schema.base import Items, Section
from specs.schema.quantities import Natural, Positive

Port = Annotated[int, Field(ge=1, le=65535)]


class Local(Section):
    """This machine."""

    kind: Literal["local"] = "local"
    max_restarts: Natural = 0
    """How often all ranks begin again from the last checkpoint when one of them ends by accident."""


class Elastic(Section):
    """What several nodes share: how torchrun's agents, one on each, find each other and what they forgive."""

    ranks_per_node: Positive | None = None
    """None means `cluster.devices_per_node` of the spec."""
    least_nodes: Positive | None = None
    """Fewest nodes to go on with when others are lost; none means all of them."""
    max_restarts: Natural = 3
    join_seconds: Positive = 600
    """How long agents wait for each other."""
    last_call_seconds: Positive = 30
    """How long to wait for more nodes once the fewest have joined."""
    lost_after_seconds: Positive = 15
    """How long a node may be silent before the others meet again without it."""
    interface: str | None = None
    """Network interface of the process group, such as `ib0`; none lets gloo and NCCL choose."""
    save_seconds: Positive = 120
    """How long ranks may take to finish their step and save it once they are asked to stop; then they are killed.

    A scheduler asks so long before their time ends.
    """


class Scheduled(Elastic):
    """What the nodes of a scheduler share."""

    port: Port = 29500
    """Where the nodes meet, on the first of them."""
    poll_seconds: Positive = 15
    """How often the scheduler is asked how the job stands."""
    silent_seconds: Positive = 3600
    """How long the scheduler may fail to answer before the waiting ends. The job goes on."""


class Nodes(Elastic):
    """Several machines that see one file system, started by hand or by a tool: the same command on each."""

    kind: Literal["nodes"]
    rendezvous: Annotated[str, Field(pattern=r"^[^\s:/]+:\d+$")]
    """`host:port` of the machine where agents meet."""
    address: str | None = None
    """Name under which the others reach this machine; none means its host name."""


class Slurm(Scheduled):
    """A SLURM cluster whose nodes see the file system of this machine."""

    kind: Literal["slurm"]
    partition: str | None = None
    account: str | None = None
    time: str | None = None
    """As `sbatch --time` takes it; a run that needs more is requeued and goes on."""
    directives: Items[str] = ()
    """Further options of sbatch, such as `--gpus-per-node=8`."""
    setup: Items[str] = ()
    """Shell lines before the ranks start, such as `module load cuda`."""


class Claim(Section):
    """A persistent volume claim, and where pods see it: the project and its working folders lie there."""

    name: str
    mount: Annotated[str, Field(pattern=r"^/")]


class Kubernetes(Scheduled):
    """A Kubernetes cluster whose pods see the file system of this machine, through volume claims."""

    kind: Literal["kubernetes"]
    image: str
    namespace: str = "default"
    claims: Items[Claim] = ()
    limits: Annotated[dict[str, str], Field(default_factory=dict)]
    """Resources of a pod, such as `nvidia.com/gpu: "8"`."""
    node_selector: Annotated[dict[str, str], Field(default_factory=dict)]
    python: str = "python"
    """The interpreter in the image, or on a claim."""


Profile = Local | Nodes | Slurm | Kubernetes
KINDS: dict[str, type[Local] | type[Nodes] | type[Slurm] | type[Kubernetes]] = {
    "local": Local,
    "nodes": Nodes,
    "slurm": Slurm,
    "kubernetes": Kubernetes,
}


def elastic_of(profile: dict[str, object]) -> Elastic:
    """What several nodes share, from a profile as a job records it; the defaults for what it leaves out."""
    return Elastic.model_validate({name: profile[name] for name in Elastic.model_fields if name in profile})


def load_profile(path: Path | None = None) -> Profile:
    """The profile at a path, or the one that TWICE_CLUSTER or `cluster` in settings.yaml names, or this machine.

    Raises UserError where the file is missing or not a profile.
    """
    if path is None:
        named = load_settings().cluster
        if named is None:
            return Local()
        path = ROOT / Path(named).expanduser()
    values = read_document(path).value
    kind = values.get("kind") if isinstance(values, dict) else None
    if kind not in KINDS:
        raise UserError(f"{path}: a cluster profile needs kind: one of {', '.join(KINDS)}, not {kind!r}")
    return load_section(path, KINDS[kind])
