"""`python -m uniter` is the command line."""

from uniter.cli import main

main()
