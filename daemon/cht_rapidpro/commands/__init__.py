"""What a person types: the commands, each a thin layer over the rest."""
