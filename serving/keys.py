"""Bearer keys: what is kept of one is its hash, and a wrong one costs as much time as a right one.

`python -m serving.keys NAME` makes a key, shows it once, and gives the line to keep.
"""

import hashlib
import hmac
import secrets
import sys
from collections.abc import Sequence

PREFIX = "sha256:"


class KeyFileError(ValueError):
    """A line that is no key."""


class Keyring:
    """The keys that open the service, by name."""

    def __init__(self, lines: Sequence[str]) -> None:
        """Raises: `KeyFileError` with the number of the line, and never its text."""
        self._hashes: dict[str, bytes] = {}
        for number, line in enumerate(lines, start=1):
            name, _, value = line.partition(" ")
            digest = value.strip().removeprefix(PREFIX)
            if not value.strip().startswith(PREFIX) or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
                raise KeyFileError(
                    f"key {number} is not of the form `name {PREFIX}<64 hexadecimal digits>`; "
                    "`python -m serving.keys NAME` makes such a line"
                )
            if name in self._hashes:
                raise KeyFileError(f"key {number} has a name that an earlier one has; each needs its own")
            self._hashes[name] = digest.encode()

    def owner(self, authorization: str | None) -> str | None:
        """Name of the key in an `Authorization` header; none when it opens nothing.

        The keys are random, 256 bits each, so that a fast hash is as safe at rest as a slow one.
        """
        scheme, _, key = (authorization or "").partition(" ")
        found = hashlib.sha256(key.strip().encode()).hexdigest().encode()
        owner = None
        for name, digest in self._hashes.items():
            # No early end: the time must not tell which key was nearly right.
            if hmac.compare_digest(found, digest):
                owner = name
        return owner if scheme.lower() == "bearer" else None


def make_key(name: str) -> tuple[str, str]:
    """A new key, and the line that is kept of it."""
    if not name or any(character.isspace() or character in "#," for character in name):
        raise KeyFileError(f"a key's name has no spaces, commas or #, got {name!r}")
    key = f"nl-{secrets.token_urlsafe(32)}"
    return key, f"{name} {PREFIX}{hashlib.sha256(key.encode()).hexdigest()}"


def main(argv: Sequence[str] | None = None) -> int:
    """Make a key; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        print("usage: python -m serving.keys NAME", file=sys.stderr)
        return 2
    try:
        key, line = make_key(arguments[0])
    except KeyFileError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"key, shown only now: {key}\nline for the key file or NASHLOOP_KEYS:\n{line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
