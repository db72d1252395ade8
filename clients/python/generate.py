#!/usr/bin/env python3
"""Generates pando/_generated from the IDL with the `thrift` compiler (0.16 or later). setup.py calls it.

    clients/python/generate.py        # to use the package from the source tree, without pip
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
TARGET = HERE / "pando" / "_generated"
MODULES = ("Kv.py", "constants.py", "ttypes.py")


def find_idl():
    """In a clone; or beside this file, in a source distribution."""
    for path in (HERE.parents[1] / "thrift" / "pando.thrift", HERE / "thrift" / "pando.thrift"):
        if path.exists():
            return path
    return None


def generate():
    idl = find_idl()
    compiler = shutil.which("thrift")
    up_to_date = all((TARGET / name).exists() for name in MODULES) and (
        not idl or (TARGET / "Kv.py").stat().st_mtime > idl.stat().st_mtime)
    if up_to_date:
        return
    if not idl or not compiler:
        sys.exit("pando: there is no " + ("thrift compiler (Debian: apt install thrift-compiler)" if idl
                                          else "thrift/pando.thrift; install from a clone of the repository"))
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([compiler, "--gen", "py", "-out", directory, str(idl)], check=True)
        TARGET.mkdir(exist_ok=True)
        (TARGET / "__init__.py").write_text('"""Generated from thrift/pando.thrift."""\n', encoding="utf8")
        for name in MODULES:
            shutil.copyfile(pathlib.Path(directory, "pando", name), TARGET / name)


if __name__ == "__main__":
    generate()
