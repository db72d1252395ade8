"""Shows what tools/tidy.py remembers and what it checks again, with a clang-tidy that finds the word BUG."""

import contextlib
import importlib.util
import io
import json
import os
import pathlib
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "tools" / "tidy.py"
spec = importlib.util.spec_from_file_location("tidy", SCRIPT)
tidy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tidy)

FAKE = """#!/bin/sh
if [ "$1" = --version ]; then echo version 1; exit; fi
for file; do :; done
echo "$file" >>"$(dirname "$0")/calls"
if grep -q BUG "$file"; then echo "$file:1:1: error: a bug [bugprone-bug]"; exit 1; fi
"""


class TidyTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name).resolve()
        self.addCleanup(setattr, tidy, "ROOT", tidy.ROOT)
        self.addCleanup(setattr, tidy, "CLANG_TIDY", tidy.CLANG_TIDY)
        tidy.ROOT = self.root
        tidy.CLANG_TIDY = str(self.root / "clang-tidy")
        (self.root / "clang-tidy").write_text(FAKE)
        (self.root / "clang-tidy").chmod(0o755)
        self.write("src/a/deep.h", "int deep;")
        self.write("src/a/a.h", '#include "src/a/deep.h"')
        self.write("src/a/a.cc", '#include "src/a/a.h"')
        self.write("src/b/b.cc", "#include <vector>")
        self.write(".clang-tidy", "Checks: '*'")
        entries = [{"file": str(self.root / f), "command": f"clang++ {self.root}/{f}"} for f in
                   ("src/a/a.cc", "src/b/b.cc")]
        self.write("build/lint/compile_commands.json", json.dumps(entries))

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run_tidy(self, *arguments):
        """Returns the exit code, the output, and the names of the files that were checked."""
        for cache in (tidy.included, tidy.digest_of):
            cache.cache_clear()
        calls = self.root / "calls"
        calls.unlink(missing_ok=True)
        self.addCleanup(setattr, sys, "argv", sys.argv)
        sys.argv = ["tidy.py", "--build", str(self.root / "build/lint"), *arguments]
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
            code = tidy.main()
        checked = sorted(pathlib.Path(c).name for c in calls.read_text().split()) if calls.exists() else []
        return code, out.getvalue(), checked

    def test_what_was_clean_is_remembered(self):
        self.assertEqual(self.run_tidy(), (0, "", ["a.cc", "b.cc"]))
        self.assertEqual(self.run_tidy(), (0, "", []))

    def test_a_change_is_checked_wherever_it_is_included(self):
        self.run_tidy()
        self.write("src/a/deep.h", "long deep;")
        self.assertEqual(self.run_tidy()[2], ["a.cc"])
        self.write("src/b/b.cc", "#include <map>")
        self.assertEqual(self.run_tidy()[2], ["b.cc"])
        self.write("src/b/.clang-tidy", "Checks: '-*'")
        self.assertEqual(self.run_tidy()[2], ["b.cc"])
        self.write(".clang-tidy", "Checks: ''")
        self.assertEqual(self.run_tidy()[2], ["a.cc", "b.cc"])

    def test_a_finding_is_reported_until_it_is_gone(self):
        self.write("src/b/b.cc", "BUG")
        for _ in range(2):
            code, out, checked = self.run_tidy()
            self.assertEqual((code, out), (1, "src/b/b.cc:1:1: error: a bug [bugprone-bug]\n"))
            self.assertIn("b.cc", checked)
        self.write("src/b/b.cc", "")
        self.assertEqual(self.run_tidy(), (0, "", ["b.cc"]))

    def test_clones_share_a_memory_until_it_is_old(self):
        memory = self.root / "memory"
        with_memory = ["--memory", str(memory)]
        self.assertEqual(self.run_tidy(*with_memory)[2], ["a.cc", "b.cc"])
        self.write("src/b/b.cc", "#include <map>")  # as another clone has it
        self.assertEqual(self.run_tidy(*with_memory)[2], ["b.cc"])
        self.write("src/b/b.cc", "#include <vector>")
        self.assertEqual(self.run_tidy(*with_memory)[2], [])
        self.assertEqual(self.run_tidy()[2], ["a.cc", "b.cc"])  # the memory of the build directory is another one
        for remembered in memory.iterdir():
            os.utime(remembered, (0, 0))
        self.assertEqual(self.run_tidy(*with_memory)[2], [])  # used, so they are new again
        self.assertEqual(len(list(memory.iterdir())), 2)

    def test_a_regex_limits_what_is_checked(self):
        self.assertEqual(self.run_tidy("src/b")[2], ["b.cc"])
        self.assertEqual(self.run_tidy()[2], ["a.cc"])


if __name__ == "__main__":
    unittest.main()
