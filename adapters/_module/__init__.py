"""What all adapters of modules share: where a parameter lives, under which names, and what is computed from it."""
