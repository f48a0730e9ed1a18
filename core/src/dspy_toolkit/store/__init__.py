"""Optimized programs on disk: bundles, versions, aliases."""

from dspy_toolkit.store.bundle import Bundle, Manifest, load_program, read_bundle, write_bundle
from dspy_toolkit.store.store import Store, Version

__all__ = ["Bundle", "Manifest", "Store", "Version", "load_program", "read_bundle", "write_bundle"]
