"""Weights and tokenizers in the formats of others."""
