"""Searching for a better program, and measuring it honestly before and after."""
