#!/usr/bin/env python3
"""Tests writes that have a name (client_id, sequence): however often they are sent, they are applied once, also after a
crash of the node; and what the node remembers of them is nowhere among the records."""

import shutil
import unittest
import uuid

from node_process import Admin, CONTEXT, NodeProcess, constants, run_kvadmin, temporary_directory, ttypes

FLAGS = ["--memory_limit_mb=256", "--partitions=4", "--reactors=2"]


class NamedWritesTest(unittest.TestCase):
    def setUp(self):
        self.directory = temporary_directory("named")
        self.node = NodeProcess(self.directory / "data", FLAGS).start()
        self.client = uuid.uuid4().bytes

    def tearDown(self):
        self.node.stop()
        run_kvadmin("check", str(self.directory / "data"))
        shutil.rmtree(self.directory)

    def name(self, sequence, age_ms=0):
        return ttypes.Context(client_id=self.client, sequence=sequence, first_sent_ms=self.now_ms() - age_ms)

    def now_ms(self):
        with self.node.connect() as kv:
            return kv.hello(CONTEXT, ttypes.HelloRequest()).now_ms

    def refused(self, code, applied, text, call, *args):
        with self.assertRaises(ttypes.KvError) as caught:
            call(*args)
        self.assertEqual((caught.exception.code, caught.exception.applied), (code, applied), caught.exception)
        self.assertIn(text, caught.exception.message)

    def test_a_repeated_write_is_applied_once(self):
        with self.node.connect() as kv, self.node.connect(compact=True) as other:
            self.assertIn("idempotent_writes", kv.hello(CONTEXT, ttypes.HelloRequest()).features)
            add = ttypes.IncrementRequest(b"n", 5)
            first = kv.increment(self.name(1), add)
            self.assertEqual((first.number, first.existed), (5, False))
            for again in (kv, other):
                reply = again.increment(self.name(1, age_ms=30), add)
                self.assertEqual((reply.number, reply.version, reply.existed), (5, first.version, False))
            self.assertEqual(kv.increment(self.name(2), add).number, 10)
            self.refused(constants.UNAVAILABLE, constants.APPLIED_UNKNOWN, "a later write", kv.increment, self.name(1), add)
            other_write = ttypes.PutRequest(b"n", b"5")
            self.refused(constants.BAD_REQUEST, constants.APPLIED_NO, "was another one", kv.put, self.name(2), other_write)
            # The record before the write is not remembered.
            old = kv.put(self.name(3), ttypes.PutRequest(b"old", b"1", return_previous=True))
            self.assertEqual((old.previous.found, old.previous_value_omitted), (False, False))
            newer = ttypes.PutRequest(b"old", b"2", return_previous=True)
            first = kv.put(self.name(4), newer)
            self.assertEqual((first.previous.value, first.previous_value_omitted), (b"1", False))
            again = kv.put(self.name(4), newer)
            self.assertEqual((again.version, again.existed, again.previous, again.previous_value_omitted),
                             (first.version, True, None, True))
            # A condition is judged once too.
            absent = ttypes.Condition(exists=False)
            put = ttypes.PutRequest(b"p", b"1", condition=absent)
            self.assertTrue(kv.put(self.name(5), put).applied)
            self.assertTrue(kv.put(self.name(5), put).applied, "the retry was judged against what the write itself left")
            refused = kv.put(self.name(6), put)
            self.assertFalse(refused.applied)
            kv.remove(CONTEXT, ttypes.RemoveRequest(b"p"))
            self.assertFalse(kv.put(self.name(6), put).applied, "the outcome of the first sending changed")
            self.assertFalse(kv.get(CONTEXT, ttypes.GetRequest(b"p")).record.found)
            too_old = constants.UNAVAILABLE, constants.APPLIED_UNKNOWN, "longer ago"
            self.refused(*too_old, kv.put, self.name(9, age_ms=11 * 60 * 1000), put)

    def test_a_crash_forgets_nothing(self):
        ops = [ttypes.WriteOp(constants.OP_INCREMENT, b"count/%d" % i, delta=1) for i in range(64)]
        with self.node.connect() as kv:
            kv.increment(self.name(1), ttypes.IncrementRequest(b"n", 1))
            numbers = [r.number for r in kv.writeBatch(self.name(2), ttypes.WriteBatchRequest(ops)).results]
        self.node.kill()
        self.node.start()
        with self.node.connect() as kv:
            again = kv.writeBatch(self.name(2, age_ms=5000), ttypes.WriteBatchRequest(ops)).results
            self.assertEqual([(r.error, r.number) for r in again], [(None, n) for n in numbers])
            self.assertEqual(numbers, [1] * 64)
            rows = kv.scan(CONTEXT, ttypes.ScanRequest(prefix=b"count/")).rows
            self.assertEqual([row.value for row in rows], [b"1"] * 64)
            # Nothing but records is counted, listed or watched.
            self.assertEqual(kv.count(CONTEXT, ttypes.CountRequest()).count, 65)
            self.assertEqual(len(kv.scan(CONTEXT, ttypes.ScanRequest()).rows), 65)
            self.assertEqual(len(kv.scan(CONTEXT, ttypes.ScanRequest(reverse=True, keys_only=True)).rows), 65)
            sums = kv.aggregate(CONTEXT, ttypes.AggregateRequest())
            self.assertEqual((sums.count, sums.bytes), (65, 2 + sum(len(op.key) + 1 for op in ops)))
            start = kv.watch(CONTEXT, ttypes.WatchRequest(b"")).position
            kv.put(self.name(3), ttypes.PutRequest(b"seen", b""))
            changes = kv.watch(CONTEXT, ttypes.WatchRequest(b"", start, wait_ms=5000)).changes
            self.assertEqual([change.key for change in changes], [b"seen"])
            kv.remove(CONTEXT, ttypes.RemoveRequest(b"seen"))
        with self.node.connect(service=Admin) as admin:
            admin.checkpoint(CONTEXT)

    def test_bad_names_are_refused(self):
        put, no = ttypes.PutRequest(b"k", b"v"), (constants.BAD_REQUEST, constants.APPLIED_NO)
        with self.node.connect() as kv:
            for context, text in ((ttypes.Context(sequence=1), "client_id has 0 bytes"),
                                  (ttypes.Context(client_id=b"c" * 65, sequence=1), "client_id has 65 bytes"),
                                  (ttypes.Context(client_id=b"c"), "sequence is 0"),
                                  (ttypes.Context(client_id=b"c", sequence=1, first_sent_ms=-1), "first_sent_ms is -1")):
                self.refused(*no, text, kv.put, context, put)
                batch = ttypes.WriteBatchRequest([ttypes.WriteOp(constants.OP_PUT, b"k", b"v")])
                self.refused(*no, text, kv.writeBatch, context, batch)
            ahead = ttypes.Context(client_id=b"c", sequence=1, first_sent_ms=1 << 60)
            self.refused(*no, "but it is", kv.put, ahead, put)
            result = kv.writeBatch(ahead, batch).results[0]
            self.assertEqual((result.applied, result.error.code, result.error.applied), (False, *no))
            self.refused(*no, "no harm", kv.deleteRange, self.name(1), ttypes.DeleteRangeRequest(prefix=b"k"))
            self.assertEqual(kv.count(CONTEXT, ttypes.CountRequest()).count, 0)
            kv.get(self.name(0), ttypes.GetRequest(b"k"))  # reads ignore names


if __name__ == "__main__":
    unittest.main(verbosity=2)
