"""Language models as a run sees them: usage, limits, prices, context, cache."""
