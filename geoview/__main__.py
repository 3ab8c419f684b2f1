"""`python -m geoview` is the command `geoview`."""

from geoview.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
