"""The command `flamingo-med`: a file for each subcommand, which says what it prints and holds its linear main."""
