"""`python -m vocabridge`, so that launchers of several processes can start the command line."""

from vocabridge.cli import main

main()
