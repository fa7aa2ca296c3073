"""Signatures, shingles and components: which documents are nearly the same."""
