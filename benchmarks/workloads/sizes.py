"""Architectures that suites and peers agree on."""

from specs.schema.training import Architecture

SEVENTEEN_MILLION = Architecture(d_model=384, n_layers=8, n_heads=6, d_ff=1024, context_length=512)
"""17.3 million parameters with a vocabulary of 4,096."""

ONE_BILLION = Architecture(d_model=2048, n_layers=16, n_heads=16, d_ff=7168, context_length=8192)
"""1.1 billion parameters with a vocabulary of 32,000."""
