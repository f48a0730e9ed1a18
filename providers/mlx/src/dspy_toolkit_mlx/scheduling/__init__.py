"""Which sequence runs next and what its prefix shares: plain Python, no array library."""
