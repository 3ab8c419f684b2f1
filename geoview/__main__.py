"""`python -m geoview` is the command `geoview`."""

from geoview.cli import run

if __name__ == "__main__":
    run()
