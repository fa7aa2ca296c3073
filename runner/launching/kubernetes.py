"""Kubernetes: an indexed Job with one pod for each node, and the cluster that runs it, through kubectl."""

import json
import shlex
from pathlib import Path
from typing import Any

from runner.launching.cluster import Kubernetes
from runner.launching.node import node_command
from runner.launching.scheduler import State, ask, fill, job_name
from runner.training.job import BAD_INPUT, STOPPED, Job
from specs.loading.settings import ROOT


class KubernetesScheduler:
    """A Kubernetes cluster through kubectl."""

    kind = "kubernetes"

    def __init__(self, profile: Kubernetes) -> None:
        self.profile = profile

    def render(self, job: Job, path: Path, ranks: int, per_node: int) -> str:
        """A headless Service, by which pods find the first of them, and the Job, as YAML."""
        name, profile = job_name(job), self.profile
        command = node_command(path, per_node, profile.python)
        command += ["--nodes", str(ranks // per_node)]
        command += ["--rendezvous", f"{name}-0.{name}.{profile.namespace}.svc:{profile.port}", "--run-id", name]
        return fill(
            "kubernetes.yaml.j2",
            name=name,
            labels={"app.kubernetes.io/name": "twice", "app.kubernetes.io/instance": name},
            nodes=ranks // per_node,
            command=f'exec {shlex.join(command)} --address "$HOSTNAME.{name}"',
            cluster=profile,
            root=str(ROOT),
            stopped=STOPPED,
            bad_input=BAD_INPUT,
        )

    def find(self, job: Job) -> str | None:
        """The Job of a run that was handed in and has not ended; none where there is none."""
        name = job_name(job)
        return None if self.state(name) == "ended" else name

    def submit(self, script: Path, job: Job) -> str:
        """Hand in a manifest; an earlier Job of the same name has ended, and goes."""
        name = job_name(job)
        ask("kubectl", "delete", "job", name, *self._namespace, "--ignore-not-found", "--wait")
        ask("kubectl", "apply", *self._namespace, "--filename", str(script))
        return name

    def state(self, name: str) -> State:
        """Where a Job stands; one that is gone has ended."""
        text = ask("kubectl", "get", "job", name, *self._namespace, "--ignore-not-found", "--output=json")
        status = json.loads(text).get("status", {}) if text.strip() else None
        if status is None or _end(status):
            return "ended"
        return "running" if status.get("ready") else "waiting"

    def verdict(self, name: str) -> str:
        """The condition in which a Job ended, with its reason."""
        text = ask("kubectl", "get", "job", name, *self._namespace, "--ignore-not-found", "--output=json")
        end = _end(json.loads(text).get("status", {})) if text.strip() else None
        return f"{end['type']}: {end.get('reason')}, {end.get('message')}" if end else "the Job is gone"

    def cancelling(self, name: str) -> str:
        """The command that ends a job."""
        return shlex.join(["kubectl", "delete", "job", name, *self._namespace])

    @property
    def _namespace(self) -> tuple[str, str]:
        return ("--namespace", self.profile.namespace)


def _end(status: dict[str, Any]) -> dict[str, Any] | None:
    conditions = status.get("conditions", [])
    ends = (end for end in conditions if end["type"] in ("Complete", "Failed") and end["status"] == "True")
    return next(ends, None)
