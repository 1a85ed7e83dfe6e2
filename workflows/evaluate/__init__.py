"""Evaluation of finished policies: win rates that can be trusted, and how far a policy went for them."""
