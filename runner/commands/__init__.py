"""The subcommands of `twice`."""
