"""Runs read back, compared and executed again."""
