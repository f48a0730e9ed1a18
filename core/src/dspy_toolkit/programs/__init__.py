"""Programs and what can be asked of them without running them."""
