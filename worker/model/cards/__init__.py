"""Model cards: the description of a model, as data. This folder also holds the bundled cards."""
