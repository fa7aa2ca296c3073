"""Verdicts to scores: pass@k, intervals, paired comparisons."""
