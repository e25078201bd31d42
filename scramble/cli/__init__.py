"""The command line: options, and one file a group of commands."""
