"""How strongly a JPEG was compressed, according to its quantisation tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# ITU T.81, tables K.1 (luminance) and K.2 (chrominance), row by row. libjpeg scales these two.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8 for _ in range(4)),
)


def _scaled(base: Sequence[Sequence[int]]) -> dict[int, tuple[int, ...]]:
    """Return the tables that libjpeg's `jpeg_set_quality` makes from a base table, one for each quality."""
    percents = {quality: 5000 // quality if quality < 50 else 200 - 2 * quality for quality in range(1, 101)}
    return {
        quality: tuple(min(max((step * percent + 50) // 100, 1), 255) for row in base for step in row)
        for quality, percent in percents.items()
    }


_CHROMINANCE_AT = _scaled(_CHROMINANCE)
_QUALITY_OF = {table: quality for quality, table in _scaled(_LUMINANCE).items()}  # each has another


def estimate_quality(tables: Mapping[int, Sequence[int]]) -> int | None:
    """Return the quality, 1 to 100, with which libjpeg would write exactly these tables; None if there is none.

    Many cameras and programs have their own tables, for which such a number would mean nothing. The tables do not show
    how the image was compressed before it was last saved.

    Args:
        tables: as Pillow's `quantization`: 64 steps each, row by row, by number; 0 is the luminance's.
    """
    quality = _QUALITY_OF.get(tuple(tables.get(0, ())))
    if quality is None:
        return None
    others = {tuple(table) for number, table in tables.items() if number != 0}
    return quality if others <= {_CHROMINANCE_AT[quality]} else None
