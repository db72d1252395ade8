// Repeated calls: names of writes, waiting, deadlines, and what is said of the outcome.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  Client,
  DeadlineError,
  DiskFullError,
  SnapshotGoneError,
  TransportError,
  UnavailableError,
} from '../dist/index.js';
import { answer, big, fakeServer, FEATURES, i64, plausible, record, types } from './fake_server.mjs';

function clientOf(t, server, options = {}) {
  const client = new Client(server.address, { timeoutMs: 5000, ...options });
  t.after(() => client.close());
  return client;
}

/** Treats the requests with the scripts, one after the other, and answers the rest. */
function scripted(t, scripts, options) {
  const left = [...scripts];
  return fakeServer(t, (call) => (left.length > 0 ? left.shift()(call) : answer(call)), options);
}

const cut = (call) => call.cut();
const busy = (retryAfterMs) => (call) =>
  call.error({ code: 8, message: 'busy', applied: 1, retryable: true, retry_after_ms: retryAfterMs });
const failed = (promise) =>
  promise.then(
    () => assert.fail('it did not fail'),
    (error) => error,
  );

test('a write that is repeated has its name and its first time', async (t) => {
  const server = await scripted(t, [cut, cut, busy(20)]);
  const client = clientOf(t, server);
  assert.equal(await client.increment('k', 2n ** 62n), 2n ** 62n);
  assert.equal(server.calls.length, 4);
  const [{ context: one }] = server.calls;
  assert.equal(one.client_id.length, 16);
  assert.equal(big(one.sequence), 1n);
  const age = big(one.first_sent_ms) - server.nowMs;
  assert.ok(age >= 0n && age < 5000n, `first_sent_ms is ${age} ms after hello`);
  for (const { context } of server.calls) {
    assert.deepEqual(
      [context.client_id, big(context.sequence), big(context.first_sent_ms)],
      [one.client_id, 1n, big(one.first_sent_ms)],
    );
  }
});

test('lanes are used again, one write at a time', async (t) => {
  const waiting = [];
  const server = await fakeServer(t, (call) => waiting.push(call));
  const client = clientOf(t, server);
  const answerAll = async (count) => {
    while (waiting.length < count) await new Promise(setImmediate);
    waiting.splice(0).forEach(answer);
  };
  for (let round = 0; round < 3; ++round) {
    const writes = [
      client.put('a', '1'),
      client.remove('b'),
      client.touch('c', { ttlMs: 5 }),
      client.batch().put('d', '1').write(),
    ];
    await answerAll(4);
    await Promise.all(writes);
  }
  const names = server.calls.map((call) => call.name);
  assert.equal(new Set(names).size, 12);
  const lanes = new Set(names.map((name) => name.split('/')[0]));
  assert.equal(lanes.size, 4);
  for (const lane of lanes) {
    assert.deepEqual(
      names.filter((name) => name.startsWith(lane)).map((name) => name.split('/')[1]),
      ['1', '2', '3'],
    );
  }
});

test('a lane whose write has an unknown outcome is not used again', async (t) => {
  const server = await scripted(t, [() => {}, (call) => call.error({ code: 10, message: 'lost', applied: 0 })]);
  const client = clientOf(t, server);
  await client.serverInfo(); // connects
  const late = await failed(client.put('k', 'v', { timeoutMs: 40 }));
  assert.deepEqual([late.constructor, late.applied, late.tries], [DeadlineError, 'UNKNOWN', 1]);
  const lost = await failed(client.put('k', 'v'));
  assert.deepEqual([lost.constructor, lost.applied], [UnavailableError, 'UNKNOWN']);
  await client.put('k', 'v');
  await client.put('k', 'v');
  const lanes = server.calls.map((call) => call.name.split('/'));
  assert.equal(new Set(lanes.map(([lane]) => lane)).size, 3);
  assert.equal(lanes[3][1], '2');
});

test('a write of unknown outcome is not retryable, and all else is', async (t) => {
  const client = clientOf(t, await fakeServer(t, cut), { timeoutMs: 100 });
  const unknown = clientOf(t, await fakeServer(t, (call) => call.error({ code: 4, message: 'no', retryable: true })), {
    timeoutMs: 100,
  });
  const outcome = async (call) => {
    const { applied, retryable } = await failed(call);
    return [applied, retryable];
  };
  const calls = [
    client.put('k', 'v'),
    client.put('k', 'v', { level: 'one' }),
    client.increment('k'),
    client.batch().put('k', 'v').write(),
    unknown.put('k', 'v'),
    unknown.put('k', 'v', { level: 'one' }),
  ];
  for (const told of await Promise.all(calls.map(outcome))) assert.deepEqual(told, ['UNKNOWN', false]);
  assert.deepEqual(await outcome(client.get('k')), ['NO', true]);
  assert.deepEqual(await outcome(client.deleteRange({ prefix: 'k' })), ['UNKNOWN', true]);
  const full = clientOf(t, await fakeServer(t, busy(1)), { timeoutMs: 100 });
  assert.deepEqual(await outcome(full.put('k', 'v')), ['NO', true]);
});

test('what has no name: reads, deleteRange, level one, and writes to a server that remembers none', async (t) => {
  const server = await fakeServer(t, answer);
  const client = clientOf(t, server);
  await client.get('k');
  await client.deleteRange({ prefix: 'k' });
  await client.put('k', 'v', { level: 'one' });
  assert.deepEqual(
    server.calls.map((call) => call.name),
    [null, null, null],
  );

  const features = FEATURES.filter((feature) => feature !== 'idempotent_writes');
  const old = await scripted(t, [busy(1), cut], { features });
  const error = await failed(clientOf(t, old).put('k', 'v'));
  assert.ok(error instanceof TransportError && error.applied === 'UNKNOWN', error.stack);
  assert.deepEqual(
    old.calls.map((call) => call.name),
    [null, null],
    'refused with NO: repeated; lost: not',
  );
});

test('a deadline says NO only if every try certainly did nothing', async (t) => {
  for (const [scripts, applied] of [
    [[busy(30), busy(30), busy(1000)], 'NO'],
    [[cut, busy(30), busy(1000)], 'UNKNOWN'],
  ]) {
    const server = await scripted(t, scripts);
    const began = performance.now();
    const error = await failed(clientOf(t, server).put('k', 'v', { timeoutMs: 1000 }));
    assert.ok(error instanceof DeadlineError, error.stack);
    assert.deepEqual([error.applied, error.cause.codeName, error.tries], [applied, 'OVERLOADED', server.calls.length]);
    assert.ok(performance.now() - began < 1000, 'it waits no longer than it has time for');
  }
});

test('the server is told how much time is left', async (t) => {
  const server = await scripted(t, [busy(50)]);
  await clientOf(t, server).get('k', { timeoutMs: 1000 });
  const [one, two] = server.calls.map((call) => call.context.budget_ms);
  assert.ok(one <= 1000 && one > 500 && two <= one - 50, `${one}, ${two}`);
});

test('a refusal after a lost answer leaves the outcome unknown', async (t) => {
  const server = await scripted(t, [cut, (call) => call.error({ code: 15, message: 'full', applied: 1 })]);
  const error = await failed(clientOf(t, server).put('k', 'v'));
  assert.ok(error instanceof DiskFullError, error.stack);
  assert.deepEqual([error.applied, error.cause.applied], ['UNKNOWN', 'NO']);
});

test('what cannot get better is not repeated, and a read never changed anything', async (t) => {
  const server = await fakeServer(t, (call) => call.error({ code: 12, message: 'gone', retryable: true }));
  const error = await failed(clientOf(t, server).get('k', { snapshot: Buffer.from('s') }));
  assert.ok(error instanceof SnapshotGoneError && error.applied === 'NO', error.stack);
  assert.equal(server.calls.length, 1);
});

test('keys that could not be read are read again', async (t) => {
  const server = await scripted(t, [
    (call) => {
      const items = [
        { record: record(Buffer.from('first')) },
        { error: new types.KvError({ code: 8, retryable: true, retry_after_ms: 1 }) },
      ];
      call.reply(new types.MultiGetReply({ items }));
    },
  ]);
  const records = await clientOf(t, server).multiGet(['a', 'b']);
  assert.deepEqual(
    records.map((record) => record.value.toString()),
    ['first', 'b'],
  );
  assert.deepEqual(
    server.calls.map((call) => call.request.keys.join()),
    ['a,b', 'b'],
  );
});

test('the highest HLC of all replies and errors is sent, to servers with clocks', async (t) => {
  const with_ = (hlc) => (call) =>
    call.reply(Object.assign(plausible(call), { context: { hlc: i64(hlc), write: writeContext } }));
  function writeContext(out) {
    new types.ReplyContext({ hlc: this.hlc }).write(out);
  }
  const high = 2n ** 60n + 1n;
  const refuse = (call) => call.error({ code: 1, applied: 1, context: { hlc: i64(high + 1n) } });
  const server = await scripted(t, [with_(high), with_(5n), refuse]);
  const client = clientOf(t, server);
  await client.put('k', 'v');
  await client.get('k');
  await failed(client.get('k'));
  await client.get('k');
  assert.deepEqual(
    server.calls.map((call) => big(call.context.hlc)),
    [null, high, high, high + 1n],
  );

  const old = await scripted(t, [with_(high)], { features: [] });
  const other = clientOf(t, old);
  await other.get('k');
  await other.get('k');
  assert.deepEqual(
    old.calls.map((call) => call.context.hlc),
    [null, null],
  );
});

test('a key or value that is changed after the call is sent as it was', async (t) => {
  const server = await scripted(t, [cut, cut]);
  const [key, bytes] = [Buffer.from('key'), new Uint8Array([1, 2, 3])];
  const client = clientOf(t, server);
  const put = client.put(key, bytes);
  const batch = client.batch().put(key, bytes, { ifValue: bytes }).condition(key, { ifValue: bytes });
  key.fill(0);
  bytes.fill(0);
  await put;
  await batch.write();
  const { ops, conditions } = server.calls.pop().request;
  for (const copy of [ops[0].value, ops[0].condition.value, conditions[0].condition.value]) {
    assert.deepEqual([...copy], [1, 2, 3]);
  }
  assert.deepEqual([ops[0].key.toString(), conditions[0].key.toString()], ['key', 'key']);
  for (const { request } of server.calls) {
    assert.deepEqual([request.key.toString(), [...request.value]], ['key', [1, 2, 3]]);
  }
});

test('levels, expiry and conditions on the wire', async (t) => {
  const server = await fakeServer(t, answer);
  const client = clientOf(t, server, { readLevel: 'bounded', maxStalenessMs: 70, writeLevel: 'all' });
  await client.get('k');
  await client.get('k', { level: 'linearizable' });
  await client.get('k', { snapshot: Buffer.from('s') });
  await client.put('k', 'v', { ttlMs: 2n ** 40n, ifVersion: 2n ** 60n, ifValue: '', ifExists: true });
  await client.put('k', 'v', { expiresAtMs: 7, level: 'quorum' });
  await client.put('k', 'v', { ttl: 'clear' });
  assert.deepEqual(
    server.calls.map(({ context }) => [context.level ?? 0, context.max_staleness_ms ?? 0]),
    [
      [5, 70],
      [4, 0],
      [0, 0],
      [3, 0],
      [2, 0],
      [3, 0],
    ],
  );
  const [put, absolute, clear] = server.of('put').map((call) => call.request);
  assert.deepEqual(
    [put.ttl_mode, big(put.ttl_ms), absolute.ttl_mode, big(absolute.expires_at_ms), clear.ttl_mode],
    [1, 2n ** 40n, 3, 7n, 2],
  );
  assert.deepEqual(
    [big(put.condition.version), put.condition.value.length, put.condition.exists],
    [2n ** 60n, 0, true],
  );
  assert.equal(absolute.condition, null);
  await assert.rejects(client.put('k', 'v', { ttlMs: 1, ttl: 'clear' }), TypeError);
  await assert.rejects(client.get('k', { level: 'some' }), TypeError);
});
