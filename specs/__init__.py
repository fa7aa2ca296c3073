"""What an experiment is: schema, loading, identity, arithmetic, lock."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The project root: specs name local files relative to it."""

# Else pydantic reads the metadata of every installed distribution in search of plug-ins, which could change what a
# spec says.
os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
