"""Measurements behind figures in the docs, each a command."""
