"""Serving an aligned policy over HTTP with Ray Serve. Nothing is here yet; README.md holds the contract."""
