"""What may stand in a spec: a frozen, strict section for each part, with its reasons beside it."""
