"""A world to learn from: regions and places seen from the street and from above."""
