"""What a run will need, from formulas and from a trace of the real step."""
