"""The networks: ADM's U-Net, the student, and the torchvision backbones of the student."""
