"""The object store, and how long a silent one is waited for."""
