"""How the model is run: batches, shared prefixes, attention."""
