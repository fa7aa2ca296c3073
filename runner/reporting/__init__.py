"""Figures and the template of the report."""
