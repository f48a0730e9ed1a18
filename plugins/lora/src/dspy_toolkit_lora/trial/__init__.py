"""One real training in a worker process."""
