"""Rows from files, frames and lists, as checked and split examples."""
