"""Hypothesis without a time limit per example: machines that share their cores fail it at random."""

from hypothesis import settings

settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
