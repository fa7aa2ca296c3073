"""What a spec implies before it runs: counts, memory, disk, time and money."""
