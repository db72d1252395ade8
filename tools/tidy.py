#!/usr/bin/env python3
"""Runs clang-tidy on the project's .cc files, and remembers which of them were clean.

    tools/tidy.py [--build build/lint] [--memory DIR] [--jobs N] [REGEX]

With REGEX, only the files whose path it matches are checked. A file is checked again when it, a header of the project
that it includes, its compiler command, a .clang-tidy file, the IDL or clang-tidy itself has changed. What was clean is
remembered in DIR (default: BUILD/tidy), one empty file each, until it was of no use for 30 days. The names do not
depend on where the tree is, so several clones can share one DIR. Prints each finding once, although many files may include the header that
it is in, and exits with 1 if there is any.
"""

import argparse
import concurrent.futures
import contextlib
import functools
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CLANG_TIDY = "clang-tidy-22"  # older versions look into all system headers, which takes three times as long
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
MEMORY_DAYS = 30
FINDING = re.compile(r"^\S.*?:\d+:\d+: (?:error|warning): ")


@functools.cache
def included(path):
    """The project's headers that a file includes itself. The generated ones follow from the IDL."""
    names = INCLUDE.findall(path.read_text())
    candidates = [ROOT / name for name in names] + [path.parent / name for name in names]
    return [c for c in candidates if c.is_file()] + [ROOT / "thrift/pando.thrift"] * any("gen-cpp/" in n for n in names)


def closure(path):
    """The file and everything of the project that it includes, directly or not."""
    seen, todo = set(), [path]
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        if at.suffix in (".cc", ".h"):
            todo += included(at)
    return sorted(seen)


@functools.cache
def digest_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def configuration_of(path):
    """The .clang-tidy files that apply to a file."""
    return [d / ".clang-tidy" for d in path.parents if (d / ".clang-tidy").is_file() and d.is_relative_to(ROOT)]


def key_of(entry, version):
    path = pathlib.Path(entry["file"])
    parts = [version, entry["command"].replace(str(ROOT), "")]
    parts += [f"{p.relative_to(ROOT)} {digest_of(p)}" for p in closure(path) + configuration_of(path)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def findings_of(output):
    """Divides the output into findings, each with the lines that explain it."""
    findings = []
    for line in output.splitlines():
        if FINDING.match(line):
            findings.append([line])
        elif findings:
            findings[-1].append(line)
    return ["\n".join(lines) for lines in findings]


class Checker:
    """Checks files in parallel; prints findings as they come."""

    def __init__(self, build, total):
        self.build = build
        self.total = total
        self.done = 0
        self.printed = set()
        self.failed = []
        self.lock = threading.Lock()

    def check(self, path, remembered):
        process = subprocess.run([CLANG_TIDY, "-quiet", "-p", self.build, path], stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True, check=False)
        with self.lock:
            self.done += 1
            for finding in findings_of(process.stdout):
                if finding not in self.printed:
                    self.printed.add(finding)
                    print(finding.replace(f"{ROOT}/", ""), flush=True)
            if process.returncode == 0:
                remembered.touch()
            else:
                self.failed.append(path)
                if not findings_of(process.stdout):
                    print(f"{path}: {CLANG_TIDY} failed: {process.stdout}{process.stderr}", flush=True)
            if self.done % 10 == 0:
                print(f"tidy: {self.done} of {self.total} files", file=sys.stderr, flush=True)


def forget_unused(memory, used):
    """Removes what was of no use for a long time. Other clones may do the same at the same time."""
    oldest = time.time() - MEMORY_DAYS * 24 * 3600
    for remembered in memory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if remembered.name in used:
                remembered.touch()
            elif remembered.stat().st_mtime < oldest:
                remembered.unlink()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/lint")
    parser.add_argument("--memory", type=pathlib.Path)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("regex", nargs="?", default="")
    arguments = parser.parse_args()

    version = subprocess.run([CLANG_TIDY, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    memory = arguments.memory or arguments.build / "tidy"
    memory.mkdir(parents=True, exist_ok=True)
    entries = [e for e in json.loads((arguments.build / "compile_commands.json").read_text())
               if e["file"].endswith(".cc")]
    keys = {e["file"]: key_of(e, version) for e in entries}
    forget_unused(memory, set(keys.values()))
    todo = [path for path, key in sorted(keys.items())
            if re.search(arguments.regex, os.path.relpath(path, ROOT)) and not (memory / key).exists()]
    print(f"tidy: {len(todo)} of {len(keys)} files to check", file=sys.stderr, flush=True)
    checker = Checker(arguments.build, len(todo))
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for result in [pool.submit(checker.check, path, memory / keys[path]) for path in todo]:
            result.result()
    return 1 if checker.failed else 0


if __name__ == "__main__":
    sys.exit(main())
