#!/usr/bin/python3
"""Runs the conformance suite of the clients: see README.md beside this file."""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "tests" / "integration")]

import case_files  # noqa: E402  pylint: disable=wrong-import-position

LANGUAGES = ("python", "python-async", "go", "node", "java", "java-async", "cpp")
SKIPPED = 77
RUNNER_TIMEOUT_S = 300


def runner_of(language):
    """The command of a language's runner. python-async is the second client of Python, and java-async that of Java."""
    base, _, variant = language.partition("-")
    command = [ROOT / "clients" / base / "run_conformance"]
    return command + ["--client", variant] if variant else command


def build(language):
    """True if the runner is there and could be built."""
    command = runner_of(language)
    if not command[0].exists():
        return False
    code = subprocess.run([*command, "--build-only"], check=False).returncode
    if code not in (0, SKIPPED):
        raise SystemExit(f"{language}: run_conformance --build-only exited with {code}")
    return code == 0


def run_language(language, cluster, control, cases, only):
    addresses = ",".join(router.address for router in cluster.routers)
    command = [*runner_of(language), "--cases", cases, "--addresses", addresses, "--control", control.address]
    if only:
        command += ["--only", only]
    print(f"== {language}", flush=True)
    began = time.monotonic()
    try:
        code = subprocess.run(list(map(str, command)), check=False, timeout=RUNNER_TIMEOUT_S).returncode
    except subprocess.TimeoutExpired:
        print(f"{language}: the runner did not end within {RUNNER_TIMEOUT_S} s", flush=True)
        code = 1
    print(f"== {language}: {'ok' if code == 0 else 'FAILED'}, {time.monotonic() - began:.1f} s", flush=True)
    return code == 0


def conform(languages, only=None, must_exist=False):
    """Exit code: 0 = all passed, 1 = not, 77 = none of the languages is installed."""
    built = [language for language in languages if build(language)]
    missing = [language for language in languages if language not in built]
    if missing:
        print(f"skipped, because they are not here: {', '.join(missing)}", flush=True)
    if not built:
        return SKIPPED
    from control import ControlServer, TestCluster  # pylint: disable=import-outside-toplevel
    from node_process import temporary_directory  # pylint: disable=import-outside-toplevel
    directory = temporary_directory("conformance")
    case_files.compile_to(directory / "cases")
    cluster = TestCluster(directory)
    try:
        cluster.start()
        control = ControlServer(cluster)
        passed = []
        for language in built:
            passed.append(run_language(language, cluster, control, directory / "cases", only))
            cluster.do_heal({})
            cluster.delete_all()
    finally:
        cluster.stop()
    if all(passed):
        shutil.rmtree(directory, ignore_errors=True)
    else:
        print(f"the logs are in {directory}", flush=True)
    return 0 if all(passed) and not (must_exist and missing) else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--languages", default=",".join(LANGUAGES), help="which, with commas between (default: all)")
    parser.add_argument("--only", help="the name of one case")
    parser.add_argument("--compile", metavar="DIR", help="only write the cases to DIR, as JSON")
    options = parser.parse_args()
    if options.compile:
        case_files.compile_to(options.compile)
        return 0
    os.environ.setdefault("PANDO_BIN_DIR", str(ROOT / "build" / "release" / "bin"))
    return conform(options.languages.split(","), options.only)


if __name__ == "__main__":
    sys.exit(main())
