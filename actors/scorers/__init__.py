"""Preference scorers of every kind, and the panel that makes one matrix of what they say."""
