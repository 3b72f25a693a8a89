"""Suites: data sets with settings, source and licence, one file each."""
