"""Tokens: the tokenizer, the store on disk, and the order in which rows are read."""
