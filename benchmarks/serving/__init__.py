"""How fast the scoring service answers, also while versions are swapped, and under faults."""
