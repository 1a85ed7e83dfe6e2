"""Aligned policies over HTTP: Ray Serve, vLLM and a choice among candidates. README.md holds the contract."""
