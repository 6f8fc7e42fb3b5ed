"""The subcommands of `fima`, one file each, with the name of the command."""
