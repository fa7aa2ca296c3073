"""Whether the artifacts that lie here are those that the commit published in its dvc.lock."""

from dataclasses import dataclass

from ruamel.yaml import YAML

from specs import ROOT
from specs.common import git
from specs.common.errors import UserError

LOCK = "dvc.lock"


@dataclass(frozen=True)
class Artifact:
    """One output of a stage."""

    path: str
    published: str | None
    """Its digest in the commit; none where the commit has no such artifact."""
    here: str

    @property
    def same(self) -> bool:
        """Whether it is the published one."""
        return self.published == self.here


def artifacts(revision: str = "HEAD") -> list[Artifact]:
    """Every artifact that dvc.lock names now, in the order of the pipeline, beside the one of a commit.

    Raises UserError where one of them is missing or unreadable.
    """
    text = git.show(git.commit_of(revision), LOCK)
    if text is None:
        raise UserError(f"{revision} has no {LOCK}: nothing was published there")
    try:
        now = (ROOT / LOCK).read_text("utf-8")
    except OSError as error:
        raise UserError(f"{LOCK} cannot be read ({error.strerror}): run dvc repro") from error
    published = _digests(text)
    return [Artifact(path, published.get(path), digest) for path, digest in _digests(now).items()]


def told(artifacts: list[Artifact]) -> list[str]:
    """The same in words."""
    other = [artifact for artifact in artifacts if not artifact.same]
    if not other:
        return [f"every artifact is the published one ({len(artifacts)} of {len(artifacts)})"]
    lines = [f"{len(artifacts) - len(other)} of {len(artifacts)} artifacts are the published ones; these are not:"]
    lines += [f"  {a.path}{'' if a.published else ' (not published)'}" for a in other]
    return [*lines, "what depends on an artifact that differs differs too: the first one is where to look"]


def _digests(text: str) -> dict[str, str]:
    stages = YAML(typ="safe").load(text)["stages"]
    return {out["path"]: str(out["md5"]) for stage in stages.values() for out in stage.get("outs", [])}
