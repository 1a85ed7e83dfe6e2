"""What a person starts: config in, run directory and report out."""
