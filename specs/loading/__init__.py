"""YAML files to validated sections, every error placed at file, line and column."""
