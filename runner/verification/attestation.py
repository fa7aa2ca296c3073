"""What was shown of a run, as an in-toto attestation: https://in-toto.io/Statement/v1 with the provenance predicate of
SLSA 1.0 (https://slsa.dev/spec/v1.0/provenance).

The subjects are the files of the finished run; what they were made from are resolved dependencies. Under
`twice_shown`, an extension field as the predicate allows, stands the level that a second execution demonstrated, and
never one that was only declared.
"""

import importlib.metadata
from typing import Any

from runner.monitoring.environment import environment
from runner.verification.recorded_run import RecordedRun
from runner.verification.verify import Verdict
from specs.common.errors import UserError

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:twice:training-phase:v1"


def attestation(run: RecordedRun, verdict: Verdict) -> dict[str, Any]:
    """The attestation of a finished run. Raises UserError where nothing can be stated of it."""
    if run.record is None:
        raise UserError(f"{run.folder} is not finished: an attestation is about finished weights")
    if verdict.level is None:
        raise UserError(f"{run.folder} is not verified: nothing can be stated of it")
    subjects = sorted(verdict.digests.items())
    checkout = verdict.checkout and verdict.checkout.as_json()
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"stage": run.stage, **run.spec},
                "internalParameters": {"declared_level": run.level, "digest_chain": run.record["chain"]},
                "resolvedDependencies": [
                    {"name": name, "digest": {"sha256": digest}} for name, digest in sorted(run.inputs.items())
                ],
            },
            "runDetails": {
                "builder": {"id": "urn:twice:verify", "version": {"twice": importlib.metadata.version("twice")}},
                "metadata": {
                    "twice_shown": shown(verdict),
                    "twice_environment": environment(),
                    "twice_checkout": checkout,
                },
            },
        },
    }


def shown(verdict: Verdict) -> dict[str, Any]:
    """The level that is demonstrated for the subjects as a whole, and what was executed for it."""
    rerun = verdict.rerun
    # A part that was executed again says nothing of the steps outside it, nor of the weights that they led to.
    stated: dict[str, Any] = {"level": verdict.level if rerun is None or rerun.whole else "recorded"}
    if rerun is not None:
        stated["executed"] = {
            "steps": [rerun.first, rerun.last],
            "ranks": rerun.ranks,
            "device": rerun.device,
            "bitwise": rerun.bitwise,
        }
        if rerun.deviation is not None:
            stated["executed"] |= {"tolerance": verdict.tolerance, "deviation": rerun.deviation.as_json()}
    return stated
