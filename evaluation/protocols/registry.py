"""Every protocol by name. A protocol never changes under its name: scores are compared by it."""

from data_pipeline.problems import Schema
from evaluation.protocols.harnesses import HARNESSES
from evaluation.protocols.own import OWN
from evaluation.protocols.protocol import Protocol
from specs.common.errors import UserError

PROTOCOLS = (*OWN, *HARNESSES)


def find_protocol(name: str, schema: Schema) -> Protocol:
    """The protocol of a name for problems of a schema. Raises UserError where there is none."""
    of_schema = {protocol.name: protocol for protocol in PROTOCOLS if protocol.schema == schema}
    if name not in of_schema:
        if not of_schema:
            raise UserError(f"there is no protocol for {schema} problems yet; add one in evaluation/protocols")
        *names, last = sorted(of_schema)
        raise UserError(f"there is no protocol {name!r} for {schema} problems; write {', '.join(names)} or {last}")
    return of_schema[name]
