"""What every training loop needs: checkpoints, several processes, curves, timings, and disk space."""
