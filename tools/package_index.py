#!/usr/bin/env python3
"""Turns a Debian package index (the output of `apt-cache dumpavail`) into JSON lines for `kvadmin load`.

    apt-cache dumpavail | tools/package_index.py > packages.jsonl

Prints one line for each package: {"key": name, "value": stanza}. If the index lists several versions of a package, the
last one is used.
"""

import json
import sys


def stanzas(lines):
    """Yields (name, stanza). Empty lines separate stanzas, and a `Package:` field names the package of a stanza."""
    name, stanza = None, []
    for line in lines:
        if line.strip():
            stanza.append(line)
            if line.startswith("Package:"):
                name = line.split(":", 1)[1].strip()
        elif stanza:
            yield name, "".join(stanza)
            name, stanza = None, []
    if stanza:
        yield name, "".join(stanza)


def main():
    lines = open(sys.stdin.fileno(), encoding="utf-8", errors="replace")  # pylint: disable=consider-using-with
    packages = {name: stanza for name, stanza in stanzas(lines) if name}
    for name in sorted(packages):
        print(json.dumps({"key": name, "value": packages[name]}, ensure_ascii=False))


if __name__ == "__main__":
    main()
