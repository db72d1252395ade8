#!/usr/bin/python3
"""Runs the C++ client's unit tests and the conformance suite of the clients with it. Skipped if what it needs is not
installed."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("PANDO_CLIENT_CPP_BUILD", ROOT / "build" / "client-cpp"))


def main():
    built = subprocess.run([ROOT / "clients" / "cpp" / "run_conformance", "--build-only"], check=False).returncode
    if built != 0:
        return built
    subprocess.run([BUILD / "pando_client_test", "--gtest_brief=1"], check=True)
    run = ROOT / "clients" / "conformance" / "run.py"
    return subprocess.run([sys.executable, "-W", "ignore", run, "--languages", "cpp"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
