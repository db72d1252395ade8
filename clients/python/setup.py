"""Generates the code for the wire interface before the package is built. Everything else is in pyproject.toml."""

import pathlib
import shutil
import sys

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from generate import find_idl, generate  # noqa: E402  pylint: disable=wrong-import-position


class GenerateAndBuild(build_py):
    def run(self):
        generate()
        super().run()


class CopyIdlAndPack(sdist):
    """A source distribution has the IDL."""

    def run(self):
        copy = HERE / "thrift" / "pando.thrift"
        copied = not copy.exists()
        if copied:
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(find_idl(), copy)
        try:
            super().run()
        finally:
            if copied:
                shutil.rmtree(copy.parent)


if not (HERE / "pando" / "_generated").exists():  # setuptools looks for the packages before it builds them
    generate()
setup(cmdclass={"build_py": GenerateAndBuild, "sdist": CopyIdlAndPack},
      packages=["pando", "pando._generated"], package_data={"pando": ["py.typed"]})
