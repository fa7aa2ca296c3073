"""What was shown of a run, as an in-toto statement: https://in-toto.io/Statement/v1 with the provenance predicate of
SLSA 1.0 (https://slsa.dev/spec/v1.0/provenance).

The subjects are the files of the finished run; what they were made from are resolved dependencies. Under
`twice_shown`, an extension field as the predicate allows, stands the level that a second execution demonstrated, and
never one that was only declared.
"""

import importlib.metadata
from typing import Any

from runner.monitoring.environment import environment
from runner.verification.run_folder import History
from runner.verification.verify import Verdict
from specs.common.errors import UserError
from specs.common.files import sha256_file
from specs.common.run_folder import RunFolder

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:twice:training-phase:v1"


def statement(run: History, verdict: Verdict) -> dict[str, Any]:
    """The statement on a finished run. Raises UserError where nothing can be stated of it."""
    if run.record is None:
        raise UserError(f"{run.folder} is not finished: a statement is about finished weights")
    if verdict.level is None:
        raise UserError(f"{run.folder} is not verified: nothing can be stated of it")
    machine, folder = environment(), RunFolder(run.folder)
    files = (folder.weights, folder.steps, folder.record)
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": path.name, "digest": {"sha256": sha256_file(path)}} for path in files],
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
                "metadata": {"twice_shown": shown(verdict), "twice_environment": machine},
            },
        },
    }


def shown(verdict: Verdict) -> dict[str, Any]:
    """The level that is demonstrated for the subjects as a whole, and what was executed for it."""
    again = verdict.again
    # A part that was executed again says nothing of the steps outside it, nor of the weights that they led to.
    level = verdict.level if again is None or again.whole else "recorded"
    found: dict[str, Any] = {"level": level}
    if again is not None:
        found["executed"] = {
            "steps": [again.first, again.last],
            "ranks": again.ranks,
            "device": again.device,
            "bitwise": again.bitwise,
        }
        if not again.bitwise:
            found["executed"] |= {"tolerance": verdict.tolerance, "largest_relative_loss_difference": again.farthest}
    return found
