"""Run the command line: python -m objstore."""

from objstore.cli.main import main

if __name__ == "__main__":
    main()
