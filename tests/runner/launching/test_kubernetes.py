"""Manifests for Kubernetes, against the schema that its API server publishes."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from runner.launching.cluster import Claim, Kubernetes
from runner.launching.kubernetes import KubernetesScheduler
from runner.launching.launch import render
from runner.launching.node import read_job

MakeJob = Callable[..., Path]
VERSION = "1.31.0"
PROFILE = Kubernetes(
    kind="kubernetes",
    image="registry.example/twice:1",
    namespace="research",
    claims=(Claim(name="projects", mount="/work"),),
    limits={"nvidia.com/gpu": "8", "memory": "900Gi"},
    node_selector={"pool": "a100"},
    poll_seconds=1,
)
KUBECTL = """#!{python}
import json, pathlib, sys
home = pathlib.Path(__file__).parent
with (home / "calls").open("a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
if sys.argv[1] == "get" and (home / "status").exists():
    print(json.dumps({{"status": json.loads((home / "status").read_text())}}))
"""


@pytest.fixture
def documents(make_job: MakeJob) -> list[dict[str, Any]]:
    job = make_job()
    return list(YAML(typ="safe").load_all(render(job, read_job(job), 8, 2, PROFILE)))


def test_manifests_are_what_the_api_accepts(documents: list[dict[str, Any]]) -> None:
    assert [document["kind"] for document in documents] == ["Service", "Job"]
    for document in documents:
        kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda job: job["spec"].update(completionMode=3),
        lambda job: job["spec"].update(paralelism=4),
        lambda job: job["spec"]["template"]["spec"].pop("containers"),
    ],
    ids=["type", "unknown field", "missing field"],
)
def test_the_schema_would_notice(spoil: Callable[[Any], None], documents: list[dict[str, Any]]) -> None:
    spoil(documents[1])
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(documents[1], VERSION, strict=True)


def test_pods_are_nodes_that_meet_at_the_first(documents: list[dict[str, Any]], make_job: MakeJob) -> None:
    service, job = documents
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 4
    name, pod = job["metadata"]["name"], job["spec"]["template"]["spec"]
    # Pods are called NAME-INDEX-xxxxx, and their host names must be labels of DNS.
    assert len(f"{name}-0-abcde") <= 63 and pod["subdomain"] == service["metadata"]["name"] == name
    assert service["spec"]["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    command = pod["containers"][0]["command"][-1]
    assert f"--nodes 4 --rendezvous {name}-0.{name}.research.svc:29500" in command and "--ranks 2" in command
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert pod["terminationGracePeriodSeconds"] > PROFILE.save_seconds


def test_a_job_is_handed_in_followed_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_job: MakeJob
) -> None:
    kubectl, status = tmp_path / "kubectl", tmp_path / "status"
    kubectl.write_text(KUBECTL.format(python=sys.executable), "utf-8")
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    path, scheduler = make_job(), KubernetesScheduler(PROFILE)
    name = scheduler.submit(path.parent / "kubernetes.yaml", read_job(path))
    calls = (tmp_path / "calls").read_text("utf-8").splitlines()
    assert calls[0].startswith(f"delete job {name} --namespace research") and calls[1].startswith("apply")
    assert scheduler.state(name) == "ended", "a Job that is gone has ended"
    ended = [
        {"type": "Complete", "status": "False"},
        {"type": "Failed", "status": "True", "reason": "PodFailurePolicy"},
    ]
    for written, state in [({}, "waiting"), ({"ready": 4}, "running"), ({"conditions": ended}, "ended")]:
        status.write_text(json.dumps(written), "utf-8")
        assert scheduler.state(name) == state
    assert scheduler.verdict(name) == "Failed: PodFailurePolicy, None"
    assert scheduler.cancelling(name) == f"kubectl delete job {name} --namespace research"
