"""A page for people: what serves, and the score of a row that they type in."""
