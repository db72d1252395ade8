#!/usr/bin/env python3
"""Checks the models of this folder with TLC, and prints a table.

    TLC="java -cp tla2tools.jar tlc2.TLC" docs/model/run.py [--limit SECONDS] [--out DIR] [case ...]

Without names: all cases of cases.py. The command of TLC is in the environment; it needs Java 11 or newer, and
tla2tools.jar of the TLA+ project. Traces and configurations go to --out (default build/model).
"""
import argparse
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True
from cases import CASES  # noqa: E402


def configuration(case):
    text = (HERE / (case.module.lower() + ".cfg")).read_text()
    for name, value in case.constants.items():
        text, found = re.subn(rf"^(  {name} = ).*$", rf"\g<1>{value}", text, flags=re.M)
        assert found == 1, name
    return text


def run(name, case, tlc, out, limit):
    config = out / (name + ".cfg")
    config.write_text(configuration(case))
    command = tlc + ["-noGenerateSpecTE", "-workers", "1", "-metadir", str(out / "states"), "-config", str(config),
                     str(HERE / (case.module + ".tla"))]
    began = time.time()
    try:
        log = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=out,
                             timeout=limit).stdout
    except subprocess.TimeoutExpired as stopped:
        log = (stopped.stdout or b"").decode()
        log += "\nstopped"
    (out / (name + ".txt")).write_text(log)
    violated = re.search(r"Invariant (\S+) is violated|Action property (\S+) is violated", log)
    if violated:
        got = violated.group(1) or violated.group(2)
    elif "No error has been found" in log:
        got = "none"
    else:
        got = "stopped" if log.endswith("stopped") else "error"
    good = got in case.violated.split() if case.violated else got == "none"
    states = re.findall(r"([\d,]+) distinct states found", log)
    steps = len(re.findall(r"^State \d+:", log, re.M))
    print(f"{'pass' if good else 'FAIL'}  {name:20} {got:24} {states[-1] if states else '-':>10} states "
          f"{steps or '-':>3} steps {time.time() - began:5.0f} s  {case.twin}", flush=True)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="case")
    parser.add_argument("--limit", type=float, help="seconds for each case")
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parent.parent / "build" / "model")
    options = parser.parse_args()
    if "TLC" not in os.environ:
        parser.error('the environment variable TLC is missing: TLC="java -cp tla2tools.jar tlc2.TLC"')
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    names = options.cases or list(CASES)
    for name in names:
        if name not in CASES:
            parser.error(f"there is no case {name}; there are {', '.join(CASES)}")
    tlc = shlex.split(os.environ["TLC"])
    results = [run(name, CASES[name], tlc, out, options.limit) for name in names]
    print(f"{results.count(True)} passed, {results.count(False)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
