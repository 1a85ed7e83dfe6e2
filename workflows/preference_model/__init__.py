"""Preference models: trained, measured and described; see `python -m workflows.preference_model --help`."""
