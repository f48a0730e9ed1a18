"""An example provider: answers drawn at random from the grammar of the signature."""
