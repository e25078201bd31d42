"""`python -m scramble`."""

from scramble.cli.app import main

if __name__ == "__main__":
    main()
