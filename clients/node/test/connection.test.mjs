// What a server or a network can do to a connection, played by a scripted server.
import assert from 'node:assert/strict';
import { getEventListeners, once } from 'node:events';
import { createServer } from 'node:net';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import {
  Client,
  AccessDeniedError,
  BadRequestError,
  DeadlineError,
  ProtocolError,
  TransportError,
} from '../dist/index.js';
import { AbortError, ClientClosedError } from '../dist/index.js';
import { clock } from '../dist/values.js';
import { answer, fakeServer, plausible, replyFrame, Thrift, types } from './fake_server.mjs';

/** A client that is closed after the test. */
function clientOf(t, addresses, options = {}) {
  const client = new Client(addresses, { timeoutMs: 5000, ...options });
  t.after(() => client.close());
  return client;
}

/** A server whose first `times` requests are treated by `script`, and the others answered. */
function first(t, times, script, options) {
  let left = times;
  return fakeServer(t, (call) => (left-- > 0 ? script(call) : answer(call)), options);
}

const value = async (client, key = 'k') => (await client.get(key)).value.toString();
const good = (call) => replyFrame(call.method, call.sequence, { success: plausible(call) });

// After each of these, the connection must be replaced and the call repeated.
const LIES = {
  'another sequence id': (call) => call.raw(replyFrame('get', call.sequence + 1000, { success: plausible(call) })),
  'the reply of another method': (call) => call.raw(replyFrame('put', call.sequence, { success: plausible(call) })),
  'the reply of an unknown method': (call) =>
    call.raw(replyFrame('nothing', call.sequence, { success: plausible(call) })),
  'neither a reply nor an error': (call) => call.raw(replyFrame('get', call.sequence, {})),
  'a reply that is a call': (call) =>
    call.raw(replyFrame('get', call.sequence, { success: plausible(call), type: Thrift.MessageType.CALL })),
  'an empty frame': (call) => call.raw(Buffer.alloc(4)),
  'a frame of 2 GiB': (call) => call.raw(Buffer.from([0x7f, 0xff, 0xff, 0xff, 0])),
  'a frame of a negative length': (call) => call.raw(Buffer.from([0xff, 0xff, 0xff, 0xff, 0])),
  HTTP: (call) => call.raw(Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n')),
  'half a reply, and the end': (call) => call.socket.end(good(call).subarray(0, 20)),
  'the end': (call) => call.cut(),
};

for (const [what, script] of Object.entries(LIES)) {
  test(`a server answers with ${what}`, async (t) => {
    const server = await first(t, 1, script);
    const client = clientOf(t, server.address);
    assert.equal(await value(client), 'k');
    assert.deepEqual(
      server.calls.map((call) => call.connection),
      [1, 2],
    );
  });
}

test('what a server lied about is an error of its own kind', async (t) => {
  const server = await fakeServer(t, (call) =>
    call.raw(replyFrame('put', call.sequence + 1000, { success: plausible(call) })),
  );
  // At this level a write is not repeated, so the error is that of the first try.
  const error = await clientOf(t, server.address)
    .put('k', 'v', { level: 'one' })
    .catch((e) => e);
  assert.ok(error instanceof ProtocolError && error instanceof TransportError, error.stack);
  assert.deepEqual([error.codeName, error.applied, error.retryable], ['TRANSPORT', 'UNKNOWN', false]);
});

test('replies may come byte by byte, or several at once', async (t) => {
  const waiting = [];
  const server = await fakeServer(t, async (call) => {
    if (call.request.key.toString() === 'slow') {
      for (const byte of good(call)) {
        call.raw(Buffer.from([byte]));
        await new Promise(setImmediate);
      }
    } else if (waiting.push(call) === 3) {
      call.raw(Buffer.concat(waiting.map(good)));
    }
  });
  const client = clientOf(t, server.address);
  assert.equal(await value(client, 'slow'), 'slow');
  assert.deepEqual(await Promise.all(['a', 'b', 'c'].map((key) => value(client, key))), ['a', 'b', 'c']);
  assert.equal(server.accepts, 1);
});

test('replies overtake each other on one connection', async (t) => {
  const waiting = [];
  const server = await fakeServer(t, (call) => {
    if (waiting.push(call) === 50) waiting.reverse().forEach(answer);
  });
  const client = clientOf(t, server.address);
  const keys = Array.from({ length: 50 }, (_, i) => `k${i}`);
  assert.deepEqual(await Promise.all(keys.map((key) => value(client, key))), keys);
  assert.equal(server.accepts, 1);
});

test('a server that keeps the order has one request at a time on a connection', async (t) => {
  const busy = new Set();
  const server = await fakeServer(
    t,
    async (call) => {
      assert.ok(!busy.has(call.connection), 'two requests at once');
      busy.add(call.connection);
      await delay(2);
      busy.delete(call.connection);
      answer(call);
    },
    { accepted: [] },
  );
  const client = clientOf(t, server.address, { poolSize: 3 });
  await Promise.all(Array.from({ length: 30 }, (_, i) => client.get(`k${i}`)));
  assert.equal(server.accepts, 3);
});

test('a connection has at most 128 requests under way, and a pool at most its size', async (t) => {
  const underWay = new Map();
  let most = 0;
  const server = await fakeServer(t, async (call) => {
    underWay.set(call.connection, (underWay.get(call.connection) ?? 0) + 1);
    most = Math.max(most, underWay.get(call.connection));
    await delay(5);
    underWay.set(call.connection, underWay.get(call.connection) - 1);
    answer(call);
  });
  const client = clientOf(t, server.address, { poolSize: 2 });
  await Promise.all(Array.from({ length: 600 }, (_, i) => client.get(`k${i}`)));
  assert.equal(server.accepts, 2);
  assert.equal(most, 128);
});

test('a late reply to a call that was given up is thrown away', async (t) => {
  let late;
  const server = await first(t, 1, (call) => (late = call));
  const client = clientOf(t, server.address);
  const abort = new AbortController();
  const call = client.get('late', { signal: abort.signal });
  while (!late) await delay(1);
  abort.abort(new Error('enough'));
  const error = await call.catch((e) => e);
  assert.ok(error instanceof AbortError && error.cause.message === 'enough' && error.applied === 'NO', error.stack);
  answer(late);
  assert.equal(await value(client, 'next'), 'next');
  assert.equal(server.accepts, 1);
});

test('an aborted write may have been applied if it was sent, and has not if not', async (t) => {
  const abort = new AbortController();
  const server = await fakeServer(t, () => abort.abort());
  const client = clientOf(t, server.address);
  assert.equal((await client.put('k', 'v', { signal: abort.signal }).catch((e) => e)).applied, 'UNKNOWN');
  assert.equal((await client.put('k', 'v', { signal: abort.signal }).catch((e) => e)).applied, 'NO');
  assert.equal(server.calls.length, 1);
});

test('a silent connection is given up at the first time-out, and what else was on it is repeated', async (t) => {
  const server = await first(t, 2, () => {});
  const client = clientOf(t, server.address);
  await client.serverInfo(); // connects
  const slow = client.get('b');
  const error = await client.get('a', { timeoutMs: 50 }).catch((e) => e);
  assert.ok(error instanceof DeadlineError && error.applied === 'NO', error.stack);
  assert.equal((await slow).value.toString(), 'b');
  assert.equal(server.accepts, 2);
});

test('a time-out among answers does not fail the other calls of its connection', async (t) => {
  const held = [];
  const server = await fakeServer(t, (call) => {
    if (call.request.key.toString().startsWith('held')) held.push(call);
    else answer(call);
  });
  const client = clientOf(t, server.address);
  const other = client.get('held/2');
  const late = client.get('held/1', { timeoutMs: 300 }).catch((e) => e);
  const ticking = setInterval(() => void client.get('tick').catch(() => {}), 20);
  t.after(() => clearInterval(ticking));
  assert.ok((await late) instanceof DeadlineError);
  answer(held.find((call) => call.request.key.toString() === 'held/2'));
  assert.equal((await other).value.toString(), 'held/2');
  assert.equal(held.length, 2, 'it was not repeated');
});

test('an idle connection that the server has closed is not used', async (t) => {
  const server = await fakeServer(t, answer);
  const client = clientOf(t, server.address);
  for (let i = 0; i < 5; ++i) {
    await client.put('k', 'v', { level: 'one' }); // it could not be repeated
    await delay(5);
    server.closeConnections();
  }
  assert.equal(server.calls.length, 5);
});

test('a method that the server does not have is a bad request, and not repeated', async (t) => {
  const server = await fakeServer(t, (call) => call.raw(replyFrame(call.method, call.sequence, { refusal: 1 })));
  const error = await clientOf(t, server.address)
    .put('k', 'v')
    .catch((e) => e);
  assert.ok(error instanceof BadRequestError && error.applied === 'NO', error.stack);
  assert.equal(server.calls.length, 1);
});

test("Thrift's own exceptions say what is known of the outcome", async (t) => {
  const refusals = [];
  const server = await fakeServer(t, (call) => {
    if (refusals.length === 0) return answer(call);
    return call.raw(replyFrame(call.method, call.sequence, { refusal: refusals.shift() }));
  });
  const client = clientOf(t, server.address);
  const put = async (type) => {
    refusals.push(type);
    const error = await client.put('k', 'v').then(() => null, (e) => e);
    return error && [error.codeName, error.applied];
  };
  for (const type of [1, 2, 7, 8, 9, 10]) assert.deepEqual(await put(type), ['BAD_REQUEST', 'NO'], `${type}`);
  assert.equal(server.accepts, 1);
  for (const type of [3, 4, 5]) assert.equal(await put(type), null, `${type} answers another request`);
  assert.equal(server.accepts, 4, 'each costs its connection');
  assert.equal(new Set(server.calls.map((call) => call.name.split('/')[0])).size, 1);
  for (const type of [6, 0, 77, -1]) assert.deepEqual(await put(type), ['INTERNAL', 'UNKNOWN'], `${type}`);
  refusals.push(0);
  const error = await client.get('k').catch((e) => e);
  assert.deepEqual([error.codeName, error.applied], ['INTERNAL', 'NO']);
  await client.put('k', 'v');
  assert.match(server.calls.at(-1).name, /\/1$/, 'lanes with unknown outcomes are not used again');
});

test('a refused hello is an error of the call', async (t) => {
  const hello = (call) => call.error({ code: 3, message: 'who are you?', applied: 1 });
  const server = await fakeServer(t, answer, { hello });
  const error = await clientOf(t, server.address)
    .get('k')
    .catch((e) => e);
  assert.ok(error instanceof AccessDeniedError && error.codeName === 'UNAUTHENTICATED', error.stack);
});

test('a server that accepts and says nothing is left after connectTimeoutMs', async (t) => {
  const silent = createServer(() => {});
  await new Promise((resolve) => silent.listen(0, '127.0.0.1', resolve));
  t.after(() => silent.close());
  const client = clientOf(t, `127.0.0.1:${silent.address().port}`, { connectTimeoutMs: 30, timeoutMs: 400 });
  const error = await client.put('k', 'v').catch((e) => e);
  assert.ok(error instanceof DeadlineError && error.cause instanceof TransportError, error.stack);
  assert.equal(error.applied, 'NO', 'nothing but hello was sent');
});

test('the next address is used although a call has less time than a connection', async (t) => {
  const silent = await fakeServer(t, answer, { hello: () => {} });
  const server = await fakeServer(t, answer);
  for (let i = 0; i < 8; ++i) {
    const options = { timeoutMs: 150, connectTimeoutMs: 60_000, poolSize: (i % 2) + 1 };
    const client = clientOf(t, [silent.address, server.address], options);
    const patient = clientOf(t, [silent.address, server.address], options);
    const waiting = [150, 20_000].map((timeoutMs) => patient.get('k', { timeoutMs }).catch((error) => error));
    await client.get('k').catch((error) => assert.ok(error instanceof DeadlineError)); // it may have been the silent one
    for (let j = 0; j < 3; ++j) assert.equal(await value(client), 'k');
    await waiting[0];
    assert.equal((await waiting[1]).value.toString(), 'k', 'who has more time goes to the next one with the others');
  }
  assert.ok(silent.accepts <= 16, 'no second attempt where one is under way');
});

test('a connection that comes late is used, and no other is made meanwhile at its address', async (t) => {
  const hellos = [];
  const server = await fakeServer(t, answer, { hello: (call) => hellos.push(call) });
  const client = clientOf(t, server.address, { timeoutMs: 50 });
  for (let i = 0; i < 3; ++i) await client.get('k').then(assert.fail, () => {});
  assert.equal(hellos.length, 1);
  hellos[0].reply(server.helloReply());
  assert.equal(await value(client), 'k');
  assert.equal(server.accepts, 1);
});

test('the next address is used when one fails, and stays preferred', async (t) => {
  const gone = await fakeServer(t, answer);
  await gone.stop();
  const server = await fakeServer(t, answer);
  for (let i = 0; i < 8; ++i) {
    const client = clientOf(t, [gone.address, server.address]);
    assert.equal(await value(client), 'k');
    await client.close();
  }
  assert.equal(server.accepts, 8);
});

test('a connection whose hello is an hour old is replaced', async (t) => {
  const server = await fakeServer(t, answer);
  const client = clientOf(t, server.address);
  await client.get('k');
  const { now } = clock;
  t.after(() => (clock.now = now));
  clock.now = () => now() + 3_600_001;
  await client.get('k');
  assert.equal(server.accepts, 2);
});

test('close ends what is under way, and later calls', async (t) => {
  const server = await fakeServer(t, () => {});
  const client = clientOf(t, server.address);
  const [read, write] = [client.get('k').catch((e) => e), client.put('k', 'v').catch((e) => e)];
  while (server.calls.length < 2) await delay(1);
  await client.close();
  for (const [error, applied] of [
    [await read, 'NO'],
    [await write, 'UNKNOWN'],
    [await client.put('k', 'v').catch((e) => e), 'NO'],
  ]) {
    assert.ok(error instanceof ClientClosedError, error.stack);
    assert.deepEqual([error.codeName, error.applied], ['CLOSED', applied]);
  }
});

test('close ends a call that waits for its next try', async (t) => {
  const server = await first(t, 1, (call) =>
    call.error({ code: 8, message: 'busy', applied: 1, retryable: true, retry_after_ms: 20_000 }),
  );
  const client = clientOf(t, server.address, { timeoutMs: 60_000 });
  const put = client.put('k', 'v').catch((e) => e);
  while (server.calls.length === 0) await delay(1);
  await client.count(); // its answer comes after that of the put
  const began = performance.now();
  await client.close();
  const error = await put;
  assert.ok(error instanceof ClientClosedError && error.applied === 'NO', error.stack);
  assert.ok(performance.now() - began < 10_000);
});

test('close ends the opening of a connection', async (t) => {
  const sockets = [];
  const silent = createServer((socket) => sockets.push(socket));
  await new Promise((resolve) => silent.listen(0, '127.0.0.1', resolve));
  t.after(() => silent.close());
  const client = clientOf(t, `127.0.0.1:${silent.address().port}`, { connectTimeoutMs: 60_000 });
  const get = client.get('k').catch((e) => e);
  while (sockets.length === 0) await delay(1);
  await client.close();
  sockets[0].resume();
  await once(sockets[0], 'close', { signal: AbortSignal.timeout(10_000) });
  assert.ok((await get) instanceof ClientClosedError);
});

test('any number of calls may share a signal', async (t) => {
  const server = await fakeServer(t, (call) => (call.method === 'count' ? answer(call) : undefined));
  const client = clientOf(t, server.address);
  const warnings = [];
  const warned = (warning) => warnings.push(warning);
  process.on('warning', warned);
  t.after(() => process.off('warning', warned));
  const abort = new AbortController();
  const { signal } = abort;
  await Promise.all(Array.from({ length: 100 }, () => client.count({ signal })));
  assert.equal(getEventListeners(signal, 'abort').length, 0);
  const calls = Array.from({ length: 100 }, () => client.get('k', { signal }).catch((e) => e));
  const watch = client.watch({ signal });
  while (server.of('get').length < 100) await delay(1);
  abort.abort('enough');
  for (const error of await Promise.all(calls)) assert.ok(error instanceof AbortError && error.cause === 'enough');
  await assert.rejects(watch.start(), AbortError);
  assert.deepEqual([getEventListeners(signal, 'abort').length, warnings], [0, []]);
});

test('the longest time is no time that is over at once', async (t) => {
  const server = await fakeServer(t, (call) => setTimeout(() => answer(call), 20));
  const client = clientOf(t, server.address, { timeoutMs: 0x7fffffff });
  assert.ok(await client.get('k'));
  assert.equal(server.calls.length, 1);
});

test('an unknown code is accepted', async (t) => {
  const server = await fakeServer(t, (call) => call.error({ code: 99, message: 'new', applied: 1 }));
  const error = await clientOf(t, server.address)
    .put('k', 'v')
    .catch((e) => e);
  assert.deepEqual([error.name, error.code, error.codeName, error.applied], ['PandoError', 99, 'CODE_99', 'NO']);
});

test('addresses are checked', () => {
  for (const bad of ['', ':1', 'h:0', 'h:99999', '::1', '[::1', 'h:x', 'a b:1'])
    assert.throws(() => new Client(bad), TypeError, bad);
  assert.throws(() => new Client([]), TypeError);
  for (const fine of ['h', 'h:1', '[::1]:7420', '[::1]', ['a:1', 'b:2'], 'a:1,b:2']) new Client(fine);
});
