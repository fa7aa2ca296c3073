"""Documents on disk, sorted and sharded, and the engine that runs a function over them."""
