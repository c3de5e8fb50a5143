"""One module for each subcommand of `distildire`; each has its click command as `command`."""
