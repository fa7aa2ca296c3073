"""From experiments to what DVC runs: identities, nodes, the lock, the graph of stages."""
