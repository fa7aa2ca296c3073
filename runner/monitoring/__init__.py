"""What is told of a run while it runs; never an input of anything."""
