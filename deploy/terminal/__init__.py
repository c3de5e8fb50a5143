"""How the command speaks: results, progress, tables, errors and exit codes."""
