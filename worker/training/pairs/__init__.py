"""Pairs of image and noise map: augmentation, the shards that store them, batches and CutMix."""
