"""Fetched bytes to documents: archives, rows, and pairs made from code."""
