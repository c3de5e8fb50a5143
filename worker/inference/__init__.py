"""The device: how images become batches for it, and the limits of each of its passes."""
