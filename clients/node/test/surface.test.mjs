// Scans, watches, snapshots and sessions.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { AbortError, BadRequestError, Client, DeadlineError, FeedGoneError, SnapshotGoneError } from '../dist/index.js';
import { answer, big, fakeServer, FEATURES, i64, plausible, types } from './fake_server.mjs';

function clientOf(t, server, options = {}) {
  const client = new Client(server.address, { timeoutMs: 5000, ...options });
  t.after(() => client.close());
  return client;
}

/** Scans 0 to 9; the cursor is the next number. */
function scanner(call) {
  const from = Number(call.request.cursor?.toString() || 0);
  const to = Math.min(10, from + Math.min(call.request.limit_rows || 4, 4));
  const rows = [];
  for (let i = from; i < to; ++i) rows.push({ key: Buffer.from(String(i)), value: Buffer.from('v'), version: i64(1n) });
  call.reply(new types.ScanReply({ rows, cursor: Buffer.from(to === 10 ? '' : String(to)) }));
}

async function keysOf(rows) {
  const keys = [];
  for await (const row of rows) keys.push(row.key.toString());
  return keys.join('');
}

test('a scan reads all pages, and its cursor continues behind what was handed out', async (t) => {
  const server = await fakeServer(t, scanner);
  const client = clientOf(t, server);
  assert.equal(await keysOf(client.scan()), '0123456789');

  const scan = client.scan();
  const seen = [];
  for await (const row of scan) {
    seen.push([row.key.toString(), scan.cursor.toString(), scan.done]);
    if (seen.length === 6) break;
  }
  // The cursor moves with the last row of a page.
  assert.deepEqual(
    seen.map(([, cursor]) => cursor),
    ['', '', '', '4', '4', '4'],
  );
  assert.equal(await keysOf(client.scan({ cursor: scan.cursor })), '456789');
  assert.equal(await keysOf(scan), '6789', 'the scan itself goes on');
  assert.deepEqual([scan.cursor.length, scan.done, scan.pages], [0, true, 3]);
  assert.equal(await keysOf(scan), '');
});

test('a limit is exact, and so is the cursor after it', async (t) => {
  const server = await fakeServer(t, scanner);
  const client = clientOf(t, server);
  const scan = client.scan({ limit: 6, pageRows: 5 });
  assert.equal(await keysOf(scan), '012345');
  assert.equal(scan.cursor.toString(), '6');
  assert.deepEqual(
    server.calls.map((call) => call.request.limit_rows),
    [5, 2],
  );
  assert.equal(await keysOf(client.scan({ limit: 0 })), '');
  const page = await client.scanPage({ limit: 3 });
  assert.deepEqual([page.rows.length, page.cursor.toString()], [3, '3']);
});

test('slices need their feature', async (t) => {
  const server = await fakeServer(t, scanner, { features: FEATURES.filter((feature) => feature !== 'slices') });
  const client = clientOf(t, server);
  await assert.rejects(client.scan({ slices: 2, slice: 0 }).toArray(), BadRequestError);
  assert.equal(server.calls.length, 0);
});

/** Watches changes 1, 2, ...; the position is the last one. */
class Feed {
  constructor() {
    this.changes = 0;
    this.waiting = [];
    this.serve = (call) => {
      const { request } = call;
      if (call.method !== 'watch') return answer(call);
      if (request.wait_ms > 0 && this.from(request) >= this.changes) return this.waiting.push(call);
      return this.reply(call);
    };
  }

  from(request) {
    if (request.position?.length) return Number(request.position.toString());
    return big(request.after_version) > 0n ? Number(big(request.after_version)) : this.changes;
  }

  reply(call) {
    const from = this.from(call.request);
    const to = Math.min(this.changes, from + (call.request.limit_changes || 3));
    const changes = [];
    for (let i = from + 1; i <= to; ++i)
      changes.push({ key: Buffer.from(String(i)), version: i64(BigInt(i)), removed: false });
    call.reply(new types.WatchReply({ changes, position: Buffer.from(String(to)) }));
  }

  change() {
    this.changes += 1;
    for (const call of this.waiting.splice(0)) this.reply(call);
  }
}

test('a watch begins when start resolves, and has a connection of its own', async (t) => {
  const feed = new Feed();
  const server = await fakeServer(t, feed.serve);
  const client = clientOf(t, server);
  const watch = client.watch({ prefix: 'p' });
  await watch.start();
  feed.change();
  feed.change();
  const seen = [];
  setTimeout(() => feed.change(), 20);
  for await (const change of watch) {
    seen.push(change.version);
    if (seen.length === 3) break;
  }
  assert.deepEqual(seen, [1n, 2n, 3n]);
  assert.equal(watch.position.toString(), '3');
  await client.get('k');
  assert.notEqual(server.of('watch')[0].connection, server.of('get')[0].connection);
  assert.equal(server.of('watch')[0].request.prefix.toString(), 'p');
});

test('a watch continues after a cut, and at its position', async (t) => {
  const feed = new Feed();
  feed.changes = 7;
  let cuts = 2;
  const server = await fakeServer(t, (call) =>
    big(call.request.after_version) !== 1n && cuts-- > 0 ? call.cut() : feed.serve(call),
  );
  const client = clientOf(t, server);
  const watch = client.watch({ afterVersion: 1n });
  const seen = [];
  for await (const { version } of watch) {
    seen.push(Number(version));
    if (version === 5n) break;
  }
  assert.deepEqual(seen, [2, 3, 4, 5]);
  assert.equal(watch.position.toString(), '4', 'the rest of the reply was not handed out');
  const again = client.watch({ position: watch.position, limit: 2 });
  for await (const { version } of again) seen.push(Number(version));
  assert.deepEqual(seen, [2, 3, 4, 5, 5, 6]);
  assert.equal(again.position.toString(), '6');
});

test('a watch that waits ends by close without an error, and by its signal with one', async (t) => {
  const feed = new Feed();
  const server = await fakeServer(t, feed.serve);
  const client = clientOf(t, server);
  const collect = async (watch) => {
    for await (const _ of watch) assert.fail('nothing has changed');
  };
  const watch = client.watch();
  const ended = collect(watch);
  while (feed.waiting.length === 0) await delay(1);
  watch.close();
  await ended;
  await collect(watch);

  const abort = new AbortController();
  const aborted = collect(client.watch({ signal: abort.signal }));
  while (feed.waiting.length === 1) await delay(1);
  abort.abort('enough');
  await assert.rejects(aborted, (error) => error instanceof AbortError && error.cause === 'enough');
  await assert.rejects(collect(client.watch({ signal: abort.signal })), AbortError);
  while (server.sockets.size > 0) await delay(1);
});

test('a watch that fell behind says so', async (t) => {
  const server = await fakeServer(t, (call) => call.error({ code: 20, message: 'gone', applied: 1 }));
  const watch = clientOf(t, server).watch({ afterVersion: 5n });
  await assert.rejects(async () => {
    for await (const _ of watch);
  }, FeedGoneError);
});

test('a snapshot is read, renewed in the background, and released', async (t) => {
  const server = await fakeServer(t, answer);
  const client = clientOf(t, server);
  const snapshot = await client.snapshot({ ttlMs: 30 });
  assert.deepEqual([snapshot.version, snapshot.expiresAtMs, snapshot.token.toString()], [9n, 10n, 'token']);
  await snapshot.get('k');
  await snapshot.count();
  await client.get('k', { snapshot });
  for (const { request } of [...server.of('get'), ...server.of('count')])
    assert.equal(request.snapshot.toString(), 'token');
  while (server.of('renewSnapshot').length < 3) await delay(2);
  assert.deepEqual([await snapshot.close(), await snapshot.close()], [true, false]);
  const renewals = server.of('renewSnapshot').length;
  await delay(40);
  assert.equal(server.of('renewSnapshot').length, renewals);
  assert.equal(server.of('releaseSnapshot').length, 1);
});

test('withSnapshot and asyncDispose release a snapshot, also after an error', async (t) => {
  let release = answer;
  const server = await fakeServer(t, (call) => (call.method === 'releaseSnapshot' ? release(call) : answer(call)));
  const client = clientOf(t, server);
  assert.equal(await client.withSnapshot((snapshot) => snapshot.count()), 7n);
  const wrong = client.withSnapshot(() => {
    throw new TypeError('mine');
  });
  await assert.rejects(wrong, { name: 'TypeError', message: 'mine' });
  if (Symbol.asyncDispose) await (await client.snapshot())[Symbol.asyncDispose]();
  const released = Symbol.asyncDispose ? 3 : 2;
  assert.equal(server.of('releaseSnapshot').length, released);
  release = (call) => call.error({ code: 17, message: 'broken', applied: 1 });
  assert.equal(await client.withSnapshot(() => 5), 5, 'it expires by itself');
});

test('a snapshot that is gone is not renewed any more', async (t) => {
  const gone = (call) => call.error({ code: 12, message: 'gone', applied: 1 });
  const server = await fakeServer(t, (call) => (call.method === 'openSnapshot' ? answer(call) : gone(call)));
  const snapshot = await clientOf(t, server).snapshot({ ttlMs: 15 });
  while (server.of('renewSnapshot').length === 0) await delay(1);
  await delay(40);
  assert.equal(server.of('renewSnapshot').length, 1);
  await assert.rejects(snapshot.get('k'), SnapshotGoneError);
  const other = await clientOf(t, server).snapshot({ ttlMs: 15, autoRenew: false });
  assert.equal(other.version, 9n);
});

test('a session sends the newest token, reads at its level, and makes one call at a time', async (t) => {
  let underWay = 0;
  let tokens = 0;
  const server = await fakeServer(t, async (call) => {
    assert.equal((underWay += 1), 1);
    await delay(2);
    underWay -= 1;
    const context = new types.ReplyContext({ session: Buffer.from(`t${(tokens += 1)}`) });
    call.reply(Object.assign(plausible(call), { context }));
  });
  const session = clientOf(t, server).session();
  await Promise.all([
    session.put('a', '1'),
    session.get('a'),
    session.get('a', { level: 'linearizable' }),
    session.count(),
  ]);
  assert.deepEqual(
    server.calls.map(({ context }) => [context.session?.toString() ?? '', context.level ?? 0]),
    [
      ['', 0],
      ['t1', 6],
      ['t2', 4],
      ['t3', 6],
    ],
  );
  assert.equal(session.token.toString(), 't4');
  await assert.rejects(session.get('a', { signal: AbortSignal.abort() }), AbortError);
  await clientOf(t, server).session(session.token).get('a');
  assert.equal(server.calls.at(-1).context.session.toString(), 't4');
  for (const reading of [{ since: Buffer.from('s') }, { snapshot: Buffer.from('s') }]) {
    await session.scanPage(reading).catch(() => {}); // answered as if it were a write
    assert.deepEqual([server.calls.at(-1).method, server.calls.at(-1).context.level], ['scan', null]);
  }
});

test('a session that has seen more than a token can tell reads at the masters', async (t) => {
  let token = 'token';
  const server = await fakeServer(t, (call) => {
    const context = new types.ReplyContext({ session: Buffer.from(token), hlc: i64(1n) });
    call.reply(Object.assign(plausible(call), { context }));
  });
  const session = clientOf(t, server).session();
  const levels = () => server.of('get').map(({ context }) => context.level ?? 0);
  token = '';
  await session.put('a', '1'); // the session has none yet
  await session.get('a');
  token = 'token';
  await session.put('a', '1');
  await session.get('a');
  token = '';
  await session.batch().put('a', '1').write();
  await session.get('a', { snapshot: Buffer.from('s') });
  token = 'token';
  await session.get('a');
  assert.deepEqual(levels(), [6, 6, 0, 6]);
  token = '';
  await session.put('a', '1');
  await session.get('a');
  assert.deepEqual(levels(), [6, 6, 0, 6, 4]);
  assert.equal(session.token.toString(), 'token');
});

test('a call of a session that waits for its turn is ended by its signal, and the others keep their order', async (t) => {
  const waiting = [];
  const server = await fakeServer(t, (call) => waiting.push(call));
  const session = clientOf(t, server).session();
  const first = session.get('first');
  const abort = new AbortController();
  const second = session.put('second', 'v', { signal: abort.signal });
  const third = session.get('third');
  while (waiting.length === 0) await delay(1);
  abort.abort();
  const error = await second.catch((e) => e);
  assert.ok(error instanceof AbortError && error.applied === 'NO', error.stack);
  assert.equal(server.calls.length, 1, 'the third still waits for the first');
  answer(waiting.pop());
  await first;
  while (waiting.length === 0) await delay(1);
  answer(waiting.pop());
  await third;
  assert.deepEqual(
    server.calls.map((call) => call.request.key.toString()),
    ['first', 'third'],
  );
});

test('a call of a session waits for its turn no longer than its timeout', async (t) => {
  const waiting = [];
  const server = await fakeServer(t, (call) => waiting.push(call));
  const session = clientOf(t, server, { timeoutMs: 20_000 }).session();
  const first = session.get('first');
  const late = [1, 2, 3].map((i) => session.put(`${i}`, 'v', { timeoutMs: 50 }).catch((error) => error));
  const last = session.get('last');
  for (const error of await Promise.all(late)) {
    assert.ok(error instanceof DeadlineError, error.stack);
    assert.deepEqual([error.applied, error.tries], ['NO', 0]);
    assert.match(error.message, /within 50 ms.*another call of the session/);
  }
  answer(waiting.pop());
  await first;
  while (waiting.length === 0) await delay(1);
  answer(waiting.pop());
  assert.equal((await last).value.toString(), 'last');
  assert.equal(server.calls.length, 2);
  await assert.rejects(session.get('k', { timeoutMs: -1 }), RangeError);
});

test('deleteRange goes on until the range is empty', async (t) => {
  const server = await fakeServer(t, (call) => {
    const cursor = Buffer.from(call.request.cursor.length < 2 ? `${call.request.cursor}x` : '');
    call.reply(new types.DeleteRangeReply({ removed: i64(2n ** 40n), cursor }));
  });
  assert.equal(await clientOf(t, server).deleteRange({ prefix: 'k', maxVersion: 5n }), 3n * 2n ** 40n);
  assert.deepEqual(
    server.calls.map(({ request }) => [request.cursor.toString(), big(request.max_version)]),
    [
      ['', 5n],
      ['x', 5n],
      ['xx', 5n],
    ],
  );
});

test('a batch has a result for each op', async (t) => {
  const server = await fakeServer(t, (call) => {
    const results = [
      { applied: true, version: i64(3n) },
      { applied: false, current: { found: true, value: Buffer.from('x'), version: i64(2n) } },
      { applied: false, error: new types.KvError({ code: 8, message: 'busy', applied: 1, retryable: true }) },
      { applied: false, withheld: true },
    ];
    call.reply(new types.WriteBatchReply({ results, failed_conditions: [{ index: 0, current: { found: false } }] }));
  });
  const batch = clientOf(t, server)
    .batch()
    .put('a', '1')
    .remove('b', { ifVersion: 5 })
    .increment('c')
    .touch('d', { ttlMs: 5 });
  const { results, failedConditions } = await batch.condition('e', { ifExists: true }).write({ allOrNothing: true });
  assert.deepEqual(
    results.map(({ applied, withheld }) => [applied, withheld]),
    [
      [true, false],
      [false, false],
      [false, false],
      [false, true],
    ],
  );
  assert.deepEqual([results[1].current.value.toString(), results[2].error.codeName], ['x', 'OVERLOADED']);
  assert.deepEqual(failedConditions, [{ index: 0, current: null, currentOmitted: false }]);
  const { request } = server.calls[0];
  assert.deepEqual(
    request.ops.map((op) => [op.kind, op.key.toString()]),
    [
      [1, 'a'],
      [2, 'b'],
      [3, 'c'],
      [4, 'd'],
    ],
  );
  assert.deepEqual(
    [request.all_or_nothing, request.conditions[0].condition.exists, big(request.ops[2].delta)],
    [true, true, 1n],
  );
});
