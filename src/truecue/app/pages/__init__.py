"""The pages as plain values: what a template shows and what the same address with .json gives."""
