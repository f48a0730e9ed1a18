"""What a run will take, estimated before it starts: calls, tokens, minutes and money."""
