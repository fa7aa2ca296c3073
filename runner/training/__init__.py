"""The training loop and all that decides a bit of its weights."""
