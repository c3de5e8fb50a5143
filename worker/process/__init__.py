"""A worker as a process: how it registers, what it repeats, how it ends, and what of the machine it may use."""
