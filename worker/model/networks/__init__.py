"""The networks: ADM's U-Net, the student, and the backbones that it is made of."""
