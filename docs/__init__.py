"""The documentation. The code in it, `docs.reference`, writes the tables that follow from the product's own code."""
