"""`python -m darts_dist` is the console script `darts-dist`."""

from darts_dist.cli import entry

if __name__ == "__main__":
    entry()
