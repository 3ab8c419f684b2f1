"""The index over S2 cells: its folder, its build, its search."""
