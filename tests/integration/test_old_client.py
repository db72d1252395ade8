#!/usr/bin/python3
"""Tests that a client built from the first published interface (tests/fixtures/wire) works with the current node."""

import os
import pathlib
import sys
import unittest

os.environ["PANDO_TEST_IDL"] = str(pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "wire" / "pando_v2.thrift")
# pylint: disable=wrong-import-position
from test_protocol import ProtocolTest  # noqa: E402

if __name__ == "__main__":
    suite = unittest.TestSuite(ProtocolTest(name) for name in
                               ("test_every_method", "test_admin", "test_scans_page_by_page",
                                "test_what_this_node_cannot_do_is_refused", "test_watch", "test_delete_range"))
    sys.exit(not unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful())
