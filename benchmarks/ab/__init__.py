"""The A/B run: two revisions, measured against each other in one run."""
