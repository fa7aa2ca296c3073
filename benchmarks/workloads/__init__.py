"""The work that suites and the A/B run measure, and its inputs."""
