"""What the command lines of workflows that read a configuration have in common."""

import argparse


def config_parser(workflow: str, description: str | None, example: str, dry_run: str) -> argparse.ArgumentParser:
    """A parser with `--config`, `--set`, `--dry-run` and `--address`.

    `example` is a configuration file of the workflow, `dry_run` says what a dry run shows.
    """
    parser = argparse.ArgumentParser(prog=f"nashloop {workflow}", description=description)
    parser.add_argument("--config", required=True, help=f"YAML file, for example {example}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one key; repeatable")
    parser.add_argument("--dry-run", action="store_true", help=f"show {dry_run}, start nothing")
    parser.add_argument("--address", help="Ray cluster to join; otherwise RAY_ADDRESS, otherwise this machine")
    return parser
