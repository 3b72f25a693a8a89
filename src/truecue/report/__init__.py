"""Reports: one self-contained page and its machine-readable twin."""
