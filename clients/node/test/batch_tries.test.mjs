// Batches of which some ops failed in a way that may pass: what is sent again, and what is known in the end.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AbortError, Client, ClientClosedError } from '../dist/index.js';
import { answer, fakeServer, FEATURES, types } from './fake_server.mjs';

const [UNKNOWN, NO] = [0, 1];
const done = { applied: true, version: undefined };
const decided = { applied: false };
const failed = (code, applied, retryable, more = {}) => ({
  error: new types.KvError({ code, message: `code ${code}`, applied, retryable, ...more }),
});
const busy = failed(8, NO, true, { retry_after_ms: 1 });
/** It asks for a longer wait than a call has time, which is then over, however slow this machine is. */
const busyForLong = failed(8, NO, true, { retry_after_ms: 60_000 });
const full = failed(15, NO, false);

/** Answers the batches with these results, one after the other; a function does it itself. The last one repeats. */
async function scripted(t, replies, options) {
  const left = [...replies];
  return fakeServer(
    t,
    (call) => {
      if (call.method !== 'writeBatch') return answer(call);
      const reply = left.length > 1 ? left.shift() : left[0];
      if (typeof reply === 'function') return reply(call);
      return call.reply(new types.WriteBatchReply({ results: reply.map((result) => new types.WriteResult(result)) }));
    },
    options,
  );
}

function clientOf(t, server, options = {}) {
  const client = new Client(server.address, { timeoutMs: 5000, ...options });
  t.after(() => client.close());
  return client;
}

const write = (client, options) =>
  client.writeBatch(
    [
      { type: 'put', key: 'a', value: '1' },
      { type: 'increment', key: 'b' },
      { type: 'put', key: 'c', value: '3', ifExists: true },
    ],
    options,
  );
const outcomes = ({ results }) =>
  results.map(({ applied, error }) => (error ? `${error.codeName} ${error.applied}` : applied));

test('a batch is sent again under its name while some ops may still succeed', async (t) => {
  const found = { applied: false, current: new types.Record({ found: true, value: Buffer.from('x') }) };
  const server = await scripted(t, [
    [done, busy, found],
    [done, busy, decided],
    [done, done, decided],
  ]);
  const client = clientOf(t, server);
  const result = await write(client);
  assert.deepEqual(outcomes(result), [true, true, false]);
  assert.equal(result.results[2].current.value.toString(), 'x', 'later answers are from memory, without the record');
  assert.deepEqual(
    server.calls.map((call) => [call.name, call.request.ops.length]),
    Array(3).fill([server.calls[0].name, 3]),
    'the same request, because servers compare it',
  );
  await client.put('k', 'v');
  assert.equal(server.calls[3].name, server.calls[0].name.replace('/1', '/2'), 'the lane is free again');
});

test('what was decided stays so, whatever servers that lead other partitions say later', async (t) => {
  const notMaster = failed(5, NO, true);
  const badNumber = failed(1, NO, false);
  const server = await scripted(t, [
    [decided, badNumber, busy],
    [notMaster, notMaster, done],
  ]);
  const result = await write(clientOf(t, server));
  assert.deepEqual(outcomes(result), [false, 'BAD_REQUEST NO', true]);
  assert.equal(server.calls.length, 2);
});

test('an op that failed for good may succeed in a try for another one', async (t) => {
  const server = await scripted(t, [
    [full, busy, done],
    [done, done, done],
  ]);
  assert.deepEqual(outcomes(await write(clientOf(t, server))), [true, true, true]);
});

test('ops that fail for good are results at once', async (t) => {
  const server = await scripted(t, [[full, done, failed(17, UNKNOWN, false)]]);
  assert.deepEqual(outcomes(await write(clientOf(t, server))), ['DISK_FULL NO', true, 'INTERNAL UNKNOWN']);
  assert.equal(server.calls.length, 1);
});

test('when the time is over, the results tell of each op', async (t) => {
  const server = await scripted(t, [
    [done, busy, failed(10, UNKNOWN, true)],
    [done, busyForLong, busyForLong],
  ]);
  const client = clientOf(t, server);
  assert.deepEqual(outcomes(await write(client)), [true, 'OVERLOADED NO', 'OVERLOADED UNKNOWN']);
  await client.put('k', 'v');
  assert.match(server.calls.at(-1).name, /\/1$/, 'the lane is not used again');
});

test('when a later answer is lost, the open ops are unknown', async (t) => {
  const server = await scripted(t, [[done, busy, full], (call) => call.cut(), [done, busyForLong, full]]);
  const result = await write(clientOf(t, server));
  assert.deepEqual(outcomes(result), [true, 'OVERLOADED UNKNOWN', 'DISK_FULL UNKNOWN']);
});

test('when the first answer was lost, an error says so little', async (t) => {
  const server = await scripted(t, [(call) => call.cut(), [done, busyForLong, full]]);
  const result = await write(clientOf(t, server));
  assert.deepEqual(outcomes(result), [true, 'OVERLOADED UNKNOWN', 'DISK_FULL UNKNOWN']);
});

test('a refusal of a later try is the error of the ops that were open', async (t) => {
  const denies = (call) => call.error({ code: 4, message: 'no', applied: NO });
  const server = await scripted(t, [[done, busy, decided], denies]);
  assert.deepEqual(outcomes(await write(clientOf(t, server))), [true, 'DENIED NO', false]);
});

test('without a name, a batch is sent again only if nothing was applied', async (t) => {
  const features = FEATURES.filter((feature) => feature !== 'idempotent_writes');
  for (const [replies, sent, expected] of [
    [[[done, busy, done]], 1, [true, 'OVERLOADED NO', true]],
    [[[decided, busy, busy]], 1, [false, 'OVERLOADED NO', 'OVERLOADED NO']],
    [[[busy, busy, failed(10, UNKNOWN, true)]], 1, ['OVERLOADED NO', 'OVERLOADED NO', 'UNAVAILABLE UNKNOWN']],
    [[[busy, full, busy], [done, done, done]], 2, [true, true, true]],
  ]) {
    const server = await scripted(t, replies, { features });
    assert.deepEqual(outcomes(await write(clientOf(t, server))), expected);
    assert.equal(server.calls.length, sent);
  }
});

test('an op of unknown outcome is not retryable', async (t) => {
  const unknown = failed(10, UNKNOWN, true);
  const outcomesOf = async (replies, options) => {
    const { results } = await write(clientOf(t, await scripted(t, replies)), options);
    return results.map(({ error }) => error && [error.applied, error.retryable]);
  };
  const expected = [null, ['NO', true], ['UNKNOWN', false]];
  assert.deepEqual(await outcomesOf([[done, busyForLong, unknown]]), expected);
  assert.deepEqual(await outcomesOf([[done, busy, unknown]], { level: 'one' }), expected);
  assert.deepEqual(await outcomesOf([[done, busy, done], (call) => call.cut(), [done, busyForLong, done]]), [
    null,
    ['UNKNOWN', false],
    null,
  ]);
});

test('a caller that ends the call is told that something was applied', async (t) => {
  for (const end of ['abort', 'close']) {
    const abort = new AbortController();
    let client;
    const again = () => (end === 'abort' ? abort.abort() : client.close());
    const server = await scripted(t, [[done, busy, busy], again]);
    client = clientOf(t, server);
    const error = await write(client, { signal: abort.signal }).then(assert.fail, (e) => e);
    assert.ok(error instanceof (end === 'abort' ? AbortError : ClientClosedError), error.stack);
    assert.equal(error.applied, 'UNKNOWN');
  }
});
