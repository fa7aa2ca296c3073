"""Kubernetes: an indexed Job with one pod for each node, and the cluster that runs it, through kubectl."""

import hashlib
import io
import json
import shlex
from pathlib import Path
from typing import Any

from runner.launching.cluster import Kubernetes
from runner.launching.node import node_command
from runner.launching.scheduler import State, ask
from runner.training.job import BAD_INPUT, STOPPED, Job
from specs.loading.settings import ROOT


class KubernetesScheduler:
    """A Kubernetes cluster through kubectl."""

    kind = "kubernetes"

    def __init__(self, profile: Kubernetes) -> None:
        self.profile = profile
        self.poll_seconds: int = profile.poll_seconds

    def render(self, job: Job, path: Path, ranks: int, per_node: int) -> str:
        """A headless Service, by which pods find the first of them, and the Job, as YAML."""
        from ruamel.yaml import YAML

        stream = io.StringIO()
        YAML(typ="safe", pure=True).dump_all(manifests(self.profile, job, path, ranks, per_node), stream)
        return stream.getvalue()

    def submit(self, script: Path, job: Job) -> str:
        """Hand in a manifest; an earlier Job of the same name has ended, and goes."""
        name = job_name(job, script)
        ask("kubectl", "delete", "job", name, *self._place, "--ignore-not-found", "--wait")
        ask("kubectl", "apply", *self._place, "--filename", str(script))
        return name

    def state(self, name: str) -> State:
        """Where a Job stands; one that is gone has ended."""
        text = ask("kubectl", "get", "job", name, *self._place, "--ignore-not-found", "--output=json")
        status = json.loads(text).get("status", {}) if text.strip() else None
        if status is None or _end(status):
            return "ended"
        return "running" if status.get("ready") else "waiting"

    def verdict(self, name: str) -> str:
        """The condition in which a Job ended, with its reason."""
        text = ask("kubectl", "get", "job", name, *self._place, "--ignore-not-found", "--output=json")
        end = _end(json.loads(text).get("status", {})) if text.strip() else None
        return f"{end['type']}: {end.get('reason')}, {end.get('message')}" if end else "the Job is gone"

    def cancelling(self, name: str) -> str:
        """The command that ends a job."""
        return shlex.join(["kubectl", "delete", "job", name, *self._place])

    @property
    def _place(self) -> tuple[str, str]:
        return ("--namespace", self.profile.namespace)


def _end(status: dict[str, Any]) -> dict[str, Any] | None:
    conditions = status.get("conditions", [])
    return next(
        (each for each in conditions if each["type"] in ("Complete", "Failed") and each["status"] == "True"), None
    )


def job_name(job: Job, path: Path) -> str:
    """Name of the Job of a run: its own for every scratch folder, at most 52 letters, so that pods' names fit."""
    digest = hashlib.sha256(str(path.parent).encode()).hexdigest()[:8]
    return f"{f'twice-{job.stage}-{job.name}'[:43]}-{digest}"


def manifests(profile: Kubernetes, job: Job, path: Path, ranks: int, per_node: int) -> list[dict[str, Any]]:
    """The Service and the Job.

    A pod that is evicted gets SIGTERM, saves, and ends with code 75, as its peers do; all are started again and go on.
    Bad input ends the Job at once.
    """
    name, nodes = job_name(job, path), ranks // per_node
    labels = {"app.kubernetes.io/name": "twice", "app.kubernetes.io/instance": name}
    command = [
        *node_command(profile, path, per_node, profile.python),
        *("--nodes", str(nodes)),
        *("--rendezvous", f"{name}-0.{name}.{profile.namespace}.svc:{profile.port}"),
        *("--run-id", name),
    ]
    container: dict[str, Any] = {
        "name": "ranks",
        "image": profile.image,
        # The shell adds the name under which the other pods reach this one.
        "command": ["/bin/sh", "-c", f'exec {shlex.join(command)} --address "$HOSTNAME.{name}"'],
        "workingDir": str(ROOT),
        "ports": [{"containerPort": profile.port, "name": "rendezvous"}],
        "resources": {"limits": dict(profile.limits)},
        "volumeMounts": [
            *({"name": f"claim-{index}", "mountPath": claim.mount} for index, claim in enumerate(profile.claims)),
            {"name": "memory", "mountPath": "/dev/shm"},
        ],
    }
    pod = {
        "restartPolicy": "Never",
        "subdomain": name,
        # Ranks finish their step and save it.
        "terminationGracePeriodSeconds": profile.save_seconds + 30,
        "containers": [container],
        "volumes": [
            *(
                {"name": f"claim-{index}", "persistentVolumeClaim": {"claimName": claim.name}}
                for index, claim in enumerate(profile.claims)
            ),
            # NCCL passes data between the ranks of a node through shared memory; the default is 64 MiB.
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
    if profile.node_selector:
        pod["nodeSelector"] = dict(profile.node_selector)
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": profile.namespace, "labels": labels},
        "spec": {
            "clusterIP": "None",
            "selector": labels,
            "ports": [{"name": "rendezvous", "port": profile.port}],
            "publishNotReadyAddresses": True,
        },
    }
    batch_job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": profile.namespace, "labels": labels},
        "spec": {
            "completions": nodes,
            "parallelism": nodes,
            "completionMode": "Indexed",
            "backoffLimit": profile.max_restarts,
            "podFailurePolicy": {
                "rules": [
                    {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [BAD_INPUT]}},
                    {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [STOPPED]}},
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    return [service, batch_job]
