"""Optimized programs on disk: bundles, versions and aliases."""
