"""Where things are on the ground: distances on the sphere, S2 cells, and regions as sets of cells."""
