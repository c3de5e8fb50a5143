"""One module for each subcommand of `distildire`; its `command` is the click command, and deploy/cli.py lists them."""
