"""The subcommands, a module for each group. None imports torch before it runs."""
