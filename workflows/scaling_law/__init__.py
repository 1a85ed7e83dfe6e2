"""Scaling laws from a table of trials: fitted, checked on the largest scale, continued as the next configuration."""
