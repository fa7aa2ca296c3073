"""Completions of problems by a model: generated, journalled, read and written in others' formats."""
