"""Writes the tables of the documentation that follow from the code: `make docs`.

The sentences of a table stand in the code, beside what they describe, and nowhere else: as a field, a help text, or a
comment whose lines begin with `#:`. A page marks the place of a table by two comments.
"""
