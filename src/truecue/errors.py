"""Every error that truecue raises on purpose.

    TruecueError
    ├─ ConfigError (ValueError)      settings and TOML files
    ├─ DataError (ValueError)        images, labels, attributes, suites on disk
    ├─ SupervisionError              attributes that are needed but absent or not declared
    ├─ RunMismatch                   a run folder that was made with other settings
    ├─ StorageError (OSError)        a file that could not be written; what was there is intact
    ├─ Diverged                      a loss that is no longer a number
    ├─ Interrupted                   a run stopped by a signal, after saving a checkpoint
    └─ MissingExtra (ImportError)    an optional package that is not installed

A message says what is wrong with which thing, what was found, and what to do. The command line
prints it and exits with status 2 (130 for `Interrupted`).
"""

from __future__ import annotations


class TruecueError(Exception):
    """Base of all errors that truecue raises on purpose."""


class ConfigError(TruecueError, ValueError):
    """A setting, or a file of settings, that cannot be used."""


class DataError(TruecueError, ValueError):
    """Images, labels, attributes or a suite on disk that cannot be used."""


class SupervisionError(TruecueError):
    """Attributes are needed, but the data has none or the method did not declare them."""


class RunMismatch(TruecueError):
    """A run folder holds a run with other settings."""


class StorageError(TruecueError, OSError):
    """A file could not be written. What was there before is intact."""


class Diverged(TruecueError):
    """A loss is no longer a finite number."""


class Interrupted(TruecueError):
    """A signal stopped the run after a checkpoint was saved."""


class MissingExtra(TruecueError, ImportError):
    """An optional package is needed and not installed."""
