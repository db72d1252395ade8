#!/usr/bin/python3
"""Tests that thrift/pando.thrift works for every language: each generator of the compiler accepts it without a warning,
and the code is in Pando's namespace."""

import pathlib
import re
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
IDL = ROOT / "thrift" / "pando.thrift"
# Generators whose output is not code, and those that do not support namespaces.
WITHOUT_NAMESPACE = {"gv", "html", "json", "markdown", "xml", "xsd", "rs", "ocaml"}


class IdlTest(unittest.TestCase):
    def test_every_generator_takes_it(self):
        help_text = subprocess.run(["thrift", "-help"], capture_output=True, text=True, check=False)
        generators = re.findall(r"^  (\w+) \(", help_text.stdout + help_text.stderr, re.MULTILINE)
        self.assertGreater(len(generators), 10, help_text)
        scopes = set(re.findall(r"^namespace (\w+)", IDL.read_text(), re.MULTILINE))
        for generator in generators:
            with self.subTest(generator=generator), tempfile.TemporaryDirectory() as out:
                done = subprocess.run(["thrift", "--strict", "--gen", generator, "-o", out, IDL], capture_output=True,
                                      text=True, check=False)
                self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))
                self.assertTrue(any(pathlib.Path(out).rglob("*")), "nothing was generated")
                if generator not in WITHOUT_NAMESPACE:
                    self.assertIn(generator, scopes, f"no namespace line for {generator}")

    def test_fields_and_codes_keep_their_numbers(self):
        """The ids, types, and names of all fields and constants of the first published version are still the same."""
        published = self.declarations(ROOT / "tests/fixtures/wire/pando_v2.thrift")
        now = self.declarations(IDL)
        self.assertGreater(len(published), 100)
        self.assertEqual({key: now.get(key) for key in published}, published)

    @staticmethod
    def declarations(path):
        """Returns (struct, field id) -> (type, name), constant -> value, and (service, method) -> signature."""
        text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        found = {name: value for name, value in re.findall(r"const i32 (\w+) = (-?\d+)", text)}
        for kind, name, body in re.findall(r"(struct|exception|service) (\w+) \{(.*?)\}", text, re.DOTALL):
            if kind == "service":
                for method in re.findall(r"(\w+ \w+\(.*?\) throws \(.*?\))", body):
                    found[name, re.search(r"(\w+)\(", method).group(1)] = method
            else:
                for number, kind_of, field in re.findall(r"(\d+): ([\w<> ]+?) (\w+)(?=\s|$)", body):
                    found[name, int(number)] = (kind_of, field)
        return found


if __name__ == "__main__":
    unittest.main(verbosity=2)
