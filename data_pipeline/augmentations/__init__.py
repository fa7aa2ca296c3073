"""Edits of code that provably keep its meaning."""
