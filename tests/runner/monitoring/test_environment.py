"""What a run meets is stated."""

import json

from runner.monitoring.environment import environment


def test_the_environment_is_json_and_names_what_computes() -> None:
    stated = environment()
    json.dumps(stated, allow_nan=False)
    assert stated["distributions"]["torch"] and stated["cores"] > 0 and stated["processor"]
