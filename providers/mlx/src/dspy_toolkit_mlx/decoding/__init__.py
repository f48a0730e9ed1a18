"""What the next token may be: samplers, grammars, thoughts and tool calls."""
