"""Hostile programs, run apart from each other and from this machine."""
