"""What every training loop needs: checkpoints, several processes, curves, timings, and room on the disk."""
