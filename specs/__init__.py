"""What an experiment is: schema, loading, identity, arithmetic, lock."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""Root of the checkout that this code is part of: specs name local files relative to it. A command refuses to run where
one stands in another checkout (`specs.common.checkout`)."""

# Else pydantic reads the metadata of every installed distribution in search of plug-ins, which could change what a
# spec says.
os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
