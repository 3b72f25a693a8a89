"""Colours of the heat maps: readable in print, on screens and by colour-blind readers."""

from __future__ import annotations

SCALE = ((178, 74, 16), (246, 222, 196), (247, 247, 244), (196, 219, 240), (16, 86, 158))
"""From 0 % to 100 %: orange to blue, and lightest between the two."""


def field_style(share: float) -> str:
    """CSS for a field that shows this share, its number in the ink that stands out more."""
    fill, ink = field_colours(share)
    return f"background:rgb{fill};color:{ink}".replace(" ", "")


def field_colours(share: float) -> tuple[tuple[int, int, int], str]:
    """Fill (red, green, blue of 255) and ink of a field that shows this share."""
    colour = _colour(share)
    # white and black contrast equally (4.6 : 1) with a luminance of 0.179
    return colour, "#fff" if _luminance(colour) < 0.179 else "#000"


def _colour(share: float) -> tuple[int, int, int]:
    place = share * (len(SCALE) - 1)
    left = min(int(place), len(SCALE) - 2)
    pairs = zip(SCALE[left], SCALE[left + 1], strict=True)
    red, green, blue = (round(a + (b - a) * (place - left)) for a, b in pairs)
    return red, green, blue


def _luminance(colour: tuple[int, int, int]) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [c / 255 for c in colour]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
