#!/usr/bin/python3
"""Runs the program that README.md has for each language against a node, with the client as it is in the clone.

A language whose tools are not installed is left out, and named. Without any of them the test is skipped (77).
"""

import functools
import os
import re
import shutil
import subprocess
import sys

from commands import GO_ENVIRONMENT, run
from node_process import NodeProcess, ROOT, temporary_directory

SKIPPED = 77
CLIENTS = ROOT / "clients"
ROUTER = "127.0.0.1:7450"  # as README.md has it
PRINTED = "fruit/apple red\nfruit/pear green\n"


def run_python(directory, program):
    (directory / "hello.py").write_text(program)
    return run(ROOT / "build/python-client/bin/python", "hello.py", cwd=directory)


def run_go(directory, program):
    go = functools.partial(run, "go", cwd=directory, environment=GO_ENVIRONMENT)
    (directory / "main.go").write_text(program)
    go("mod", "init", "example.com/fruit")
    go("mod", "edit", "-require", "pando.dev/go@v0.0.0", "-replace", f"pando.dev/go={CLIENTS / 'go'}")
    go("mod", "tidy")
    return go("run", ".")


def run_node(directory, program):
    (directory / "hello.mjs").write_text(program)
    (directory / "node_modules").mkdir()
    (directory / "node_modules/pando-client").symlink_to(CLIENTS / "node")  # as npm install DIRECTORY makes it
    return run("node", "hello.mjs", cwd=directory)


def run_java(directory, program):
    (directory / "Hello.java").write_text(program)
    java = CLIENTS / "java"
    classes = f"{java}/target/classes:{(java / 'target/conformance.classpath').read_text().strip()}"
    return run("java", "-cp", classes, "Hello.java", cwd=directory)


def run_cpp(directory, program):
    (directory / "hello.cc").write_text(program)
    (directory / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.20)\nproject(hello CXX)\nfind_package(pando REQUIRED)\n"
        "add_executable(hello hello.cc)\ntarget_link_libraries(hello PRIVATE pando::client)\n")
    built = os.environ.get("PANDO_CLIENT_CPP_BUILD", ROOT / "build" / "client-cpp")
    run("cmake", "--install", built, "--prefix", directory / "installed", cwd=directory)
    run("cmake", "-S", ".", "-B", "build", f"-DCMAKE_PREFIX_PATH={directory / 'installed'}", cwd=directory)
    run("cmake", "--build", "build", cwd=directory)
    return run("build/hello", cwd=directory)


# By the name of the block in README.md: the folder of the client, and what runs the program.
LANGUAGES = {"python": ("python", run_python), "go": ("go", run_go), "js": ("node", run_node),
             "java": ("java", run_java), "cpp": ("cpp", run_cpp)}


def main():
    programs = dict(re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S))
    assert programs.keys() == LANGUAGES.keys(), f"README.md has programs in {list(programs)}"
    assert all(ROUTER in program for program in programs.values()), "a program does not name the router of ./dev up"
    directory = temporary_directory("readme")
    left_out = []
    for block, (language, run_program) in LANGUAGES.items():
        built = subprocess.run([CLIENTS / language / "run_conformance", "--build-only"], check=False).returncode
        if built == SKIPPED:
            left_out.append(language)
            continue
        assert built == 0, f"the client for {language} could not be built"
        place = directory / language
        place.mkdir()
        node = NodeProcess(place / "data").start()  # an empty one for each, so that none finds what another has written
        printed = run_program(place, programs[block].replace(ROUTER, f"{node.host}:{node.port}"))
        assert printed == PRINTED, f"{language} prints {printed!r}"
        node.stop()
    shutil.rmtree(directory)
    print(f"left out, for lack of their tools: {', '.join(left_out) or 'none'}")
    return SKIPPED if len(left_out) == len(LANGUAGES) else 0


if __name__ == "__main__":
    sys.exit(main())
