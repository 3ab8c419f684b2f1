"""From photos to ranked places and the files that an analyst opens."""
