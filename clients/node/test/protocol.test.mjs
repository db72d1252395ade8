// Encoding and decoding, compared with the stock library, and against bytes that are no message.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import { big, i64, readCall, replyFrame, Thrift, types } from './fake_server.mjs';

const require = createRequire(import.meta.url);
const { decodeReply, encodeCall, MalformedFrame } = require('../dist/protocol.js');
const { toBytes, toI32, toI64, toTimeout } = require('../dist/values.js');

const EXTREMES = [0n, 1n, -1n, 2n ** 53n + 1n, -(2n ** 53n) - 1n, 117696921200820225n, 2n ** 63n - 1n, -(2n ** 63n)];

const body = (frame) => frame.subarray(4);
const decode = (frame) => decodeReply(body(frame)).read();

test('no bit of an i64 is lost, in either direction', () => {
  for (const value of EXTREMES) {
    const context = new types.Context({ sequence: value, hlc: value });
    const request = new types.IncrementRequest({ key: Buffer.from('k'), delta: value });
    const call = readCall(body(encodeCall('increment', 7, context, request)));
    assert.deepEqual([call.method, call.sequence], ['increment', 7]);
    assert.deepEqual(
      [big(call.context.sequence), big(call.context.hlc), big(call.request.delta)],
      [value, value, value],
    );

    const success = new types.WriteResult({ applied: true, version: i64(value), number: i64(value) });
    const reply = decode(replyFrame('increment', 7, { success })).success;
    assert.deepEqual([reply.applied, reply.version, reply.number], [true, value, value]);
  }
});

test('bytes of every kind and length arrive as they are', () => {
  const all = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
  for (const value of [Buffer.alloc(0), all, Buffer.alloc(1_000_000, 0xa5)]) {
    const request = new types.PutRequest({ key: toBytes(new Uint8Array([0, 255, 128]), 'key'), value });
    const call = readCall(body(encodeCall('put', 1, new types.Context(), request)));
    assert.deepEqual(call.request.key, Buffer.from([0, 255, 128]));
    assert.ok(call.request.value.equals(value));
  }
});

test('bytes of a reply are copies', () => {
  const success = new types.GetReply({ record: { found: true, value: Buffer.alloc(100_000, 1) } });
  const frame = body(replyFrame('get', 1, { success }));
  const { value } = decodeReply(frame).read().success.record;
  assert.notEqual(value.buffer, frame.buffer);
  frame.fill(0);
  assert.ok(value.every((byte) => byte === 1));
});

test('errors and refusals are told apart', () => {
  const error = decode(replyFrame('get', 1, { error: { code: 99, message: 'é', retry_after_ms: 5 } })).error;
  assert.deepEqual([error.code, error.message, error.retry_after_ms, error.retryable], [99, 'é', 5, null]);
  const { refusal } = decode(replyFrame('get', 1, { refusal: 1 }));
  assert.deepEqual(refusal, { type: 1, message: 'refused' });
});

test('what is no reply is malformed', () => {
  const good = replyFrame('get', 1, {
    success: new types.GetReply({ record: { found: true, value: Buffer.from('abc') } }),
  });
  assert.ok(decode(good).success);
  const malformed = {
    'neither reply nor error': body(replyFrame('get', 1, {})),
    'bytes after its end': Buffer.concat([body(good), Buffer.from([0])]),
    'the type of a call': body(replyFrame('get', 1, { success: new types.GetReply(), type: Thrift.MessageType.CALL })),
    'an old message without a version': Buffer.from([0, 0, 0, 3, 0x67, 0x65, 0x74, 2, 0, 0, 0, 1, 0]),
    empty: Buffer.alloc(0),
  };
  for (let length = 0; length < body(good).length; ++length)
    malformed[`cut at ${length}`] = body(good).subarray(0, length);
  for (const [what, frame] of Object.entries(malformed)) {
    assert.throws(() => decodeReply(frame).read(), MalformedFrame, what);
  }
});

test('a struct that is nested without end does not overflow the stack', () => {
  const head = body(replyFrame('get', 1, {})).subarray(0, -1);
  const nested = Buffer.from(Array.from({ length: 3 * 200_000 }, (_, i) => [12, 0, 77][i % 3]));
  assert.throws(() => decodeReply(Buffer.concat([head, nested])).read(), MalformedFrame);
});

test('random damage to a reply is malformed or another reply, and nothing else', () => {
  const seed = Number(process.env.PANDO_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31));
  let state = seed;
  const random = (below) => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return Math.floor((state / 0x80000000) * below);
  };
  const rows = Array.from({ length: 5 }, (_, i) => ({
    key: Buffer.from(`k${i}`),
    value: Buffer.alloc(9),
    version: i64(9n),
  }));
  const good = body(replyFrame('scan', 1, { success: new types.ScanReply({ rows, cursor: Buffer.from('c') }) }));
  for (let i = 0; i < 5000; ++i) {
    const frame = Buffer.from(good);
    for (let n = 0; n <= random(3); ++n) frame[random(frame.length)] = random(256);
    try {
      decodeReply(frame).read();
    } catch (error) {
      assert.ok(error instanceof MalformedFrame, `PANDO_TEST_SEED=${seed} npm test: ${error?.stack}`);
    }
  }
});

test('arguments that would lose something are refused', () => {
  assert.throws(() => toBytes('\ud800', 'key'), TypeError);
  assert.deepEqual(toBytes('😀', 'key'), Buffer.from('😀'));
  assert.throws(() => toBytes(5, 'key'), TypeError);
  assert.throws(() => toBytes(null, 'key'), TypeError);
  assert.throws(() => toI64(2 ** 53, 'delta'), RangeError);
  assert.throws(() => toI64(1.5, 'delta'), RangeError);
  assert.throws(() => toI64(2n ** 63n, 'delta'), RangeError);
  assert.throws(() => toI64('1', 'delta'), TypeError);
  assert.equal(toI64(-5, 'delta'), -5n);
  assert.throws(() => toI32(2 ** 31, 'limit'), RangeError);
  for (const timeout of [0, -1, NaN, Infinity]) assert.throws(() => toTimeout(timeout, 'timeoutMs'), RangeError);
});
