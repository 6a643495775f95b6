"""`python -m pairloom` is the command line."""

from pairloom.cli import main

main()
