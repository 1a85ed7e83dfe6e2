"""The proof: the whole loop on preference games whose equilibrium is known; see `python -m workflows.verify --help`."""
