"""A worker as a process: how it registers, repeats what it must, ends, and what of the machine it may use."""
