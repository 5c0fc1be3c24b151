"""python -m mammovae: the command line."""

from mammovae.cli import main

if __name__ == "__main__":
    main()
