"""Model cards: what a model is, as data. The cards that are shipped lie beside the code that reads and writes them."""
