"""The `nashloop` command: `nashloop align ...` is `python -m workflows.align ...`."""

import importlib
import sys

COMMANDS = {
    "align": "workflows.align",
    "evaluate": "workflows.evaluate.__main__",
    "preference-model": "workflows.preference_model.__main__",
    "report": "workflows.report",
    "round-robin": "workflows.round_robin",
    "sample": "workflows.sample",
    "scaling-law": "workflows.scaling_law.__main__",
    "sft": "workflows.sft",
    "sweep": "workflows.sweep.__main__",
    "verify": "workflows.verify.__main__",
}


def main() -> int:
    """Run the named workflow with the remaining arguments."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(f"usage: nashloop {{{','.join(COMMANDS)}}} ...", file=sys.stderr)
        return 2
    workflow = importlib.import_module(COMMANDS[sys.argv[1]])
    return int(workflow.main(sys.argv[2:]))
