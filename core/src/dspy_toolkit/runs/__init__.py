"""The record of a run on disk, and what can be read back from it."""
