"""The command `distildire`, the stack of one machine, benchmarks and container images."""
