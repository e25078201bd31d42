"""`python -m scramble`."""

from scramble.cli import main

if __name__ == "__main__":
    main()
