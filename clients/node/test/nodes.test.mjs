// Addresses of nodes instead of routers: the client goes to the master that an error names, if it knows the address.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Client, DeadlineError } from '../dist/index.js';
import { answer, fakeServer, plausible, record, types } from './fake_server.mjs';

const passing = { message: 'not here', applied: 1, retryable: true, retry_after_ms: 20 };
const notMaster = (master) => ({ code: 5, ...passing, master });

function clientOf(t, servers, options = {}) {
  const client = new Client(
    servers.map((server) => server.address ?? server),
    { timeoutMs: 5000, ...options },
  );
  t.after(() => client.close());
  return client;
}

/** Servers of which the one at `leads(key)` has the key, and the others name it. */
async function cluster(t, count, leads, tells = (node) => node.address) {
  const nodes = [];
  const script = (number) => (call) => {
    const { request } = call;
    const of = (key) => (leads(key.toString()) === number ? null : notMaster(tells(nodes[leads(key.toString())])));
    if (call.method === 'multiGet') {
      const items = request.keys.map((key) => {
        const error = of(key);
        return error ? { error: new types.KvError(error) } : { record: record(key) };
      });
      return call.reply(new types.MultiGetReply({ items }));
    }
    if (call.method === 'writeBatch') {
      const results = request.ops.map(({ key }) => {
        const error = of(key);
        return new types.WriteResult(error ? { error: new types.KvError(error) } : { applied: true });
      });
      return call.reply(new types.WriteBatchReply({ results }));
    }
    const error = of(request.key);
    return error ? call.error(error) : call.reply(plausible(call));
  };
  for (let number = 0; number < count; ++number) nodes.push(await fakeServer(t, script(number)));
  return nodes;
}

test('a call goes to the master that an error names, at once', async (t) => {
  const nodes = await cluster(t, 3, (key) => Number(key[0]));
  const client = clientOf(t, nodes);
  for (const key of ['0', '1', '2', '0', '2', '1']) {
    const before = nodes.map((node) => node.calls.length);
    assert.equal((await client.get(key)).value.toString(), key);
    await client.put(key, 'v');
    const made = nodes.map((node, i) => node.calls.length - before[i]);
    const others = made.reduce((sum, n) => sum + n, 0) - made[Number(key)];
    assert.ok(others <= 2, `at most one wrong try for each call: ${made}`);
  }
  assert.deepEqual(
    nodes.map((node) => node.accepts),
    [1, 1, 1],
  );
});

test('batches and multiGet collect their parts from all masters', async (t) => {
  const nodes = await cluster(t, 3, (key) => Number(key[0]));
  const client = clientOf(t, nodes);
  const keys = ['0a', '1a', '2a', '1b', '0b'];
  const { results } = await client.writeBatch(keys.map((key) => ({ type: 'put', key, value: 'v' })));
  assert.ok(results.every((result) => result.applied && !result.error));
  const records = await client.multiGet(keys);
  assert.deepEqual(
    records.map((found) => found.value.toString()),
    keys,
  );
});

test('an address that was not given is not followed', async (t) => {
  const stranger = await fakeServer(t, answer);
  const nodes = await cluster(
    t,
    2,
    () => 1,
    () => stranger.address,
  );
  const client = clientOf(t, nodes);
  for (let i = 0; i < 4; ++i) assert.ok(await client.get('k'), 'it finds the master among the addresses that it has');
  assert.equal(stranger.accepts, 0);
  const lonely = clientOf(t, [nodes[0]], { timeoutMs: 100 });
  await assert.rejects(lonely.get('k'), DeadlineError);
  assert.equal(stranger.accepts, 0);
});

test('nonsense instead of an address, and no address', async (t) => {
  for (const name of ['', 'nowhere', '::', 'host:0', 'host:99999999', '\u0000', '[::1', 'x'.repeat(10_000)]) {
    const nodes = await cluster(
      t,
      2,
      () => 1,
      () => name,
    );
    assert.ok(await clientOf(t, nodes).get('k'), name.slice(0, 20));
  }
});

test('two nodes that name each other are asked again only after a wait', async (t) => {
  const nodes = [];
  for (const other of [1, 0]) nodes.push(await fakeServer(t, (call) => call.error(notMaster(nodes[other].address))));
  await assert.rejects(clientOf(t, nodes, { timeoutMs: 1000 }).get('k'), DeadlineError);
  const tries = nodes[0].calls.length + nodes[1].calls.length;
  assert.ok(tries > 2 && tries <= 52, `${tries} tries in a second, with waits of 20 ms`);
});

test('a master that cannot be reached is left for the others', async (t) => {
  const nodes = await cluster(t, 3, () => 2);
  const dead = nodes[2].address;
  await nodes[2].stop();
  const client = clientOf(t, [nodes[0], nodes[1], dead], { timeoutMs: 1000 });
  const error = await client.put('k', 'v').then(assert.fail, (e) => e);
  assert.deepEqual([error.constructor, error.applied], [DeadlineError, 'NO']);
  assert.ok(error.tries > 2, `${error.tries}`);
});

test('watches, scans and snapshots go to the master too', async (t) => {
  const nodes = [];
  const script = (number) => (call) => {
    if (number !== 2) return call.error(notMaster(nodes[2].address));
    if (call.method === 'scan') return call.reply(new types.ScanReply({ rows: [{ key: Buffer.from('k') }] }));
    if (call.method !== 'watch') return answer(call);
    const changes = call.request.wait_ms > 0 ? [{ key: Buffer.from('k') }] : [];
    return call.reply(new types.WatchReply({ changes, position: Buffer.from('p') }));
  };
  for (let number = 0; number < 3; ++number) nodes.push(await fakeServer(t, script(number)));
  const client = clientOf(t, nodes);
  const keys = [];
  for await (const change of client.watch({ limit: 1 })) keys.push(change.key.toString());
  for await (const row of client.scan()) keys.push(row.key.toString());
  const snapshot = await client.snapshot();
  assert.equal(await snapshot.count(), 7n);
  await snapshot.close();
  assert.deepEqual(keys, ['k', 'k']);
  const wrong = nodes[0].calls.length + nodes[1].calls.length;
  assert.ok(wrong <= 6, `${wrong} calls at the wrong nodes`);
});

test('a node that names a dead master does not keep the call from the others', async (t) => {
  const dead = await fakeServer(t, answer);
  await dead.stop();
  const nodes = await cluster(
    t,
    2,
    () => 1,
    () => dead.address,
  );
  const client = clientOf(t, [...nodes, dead]);
  for (let i = 0; i < 4; ++i) assert.ok(await client.get('k'));
});

test('a server that is unavailable sends the call to the next one', async (t) => {
  const cut = await fakeServer(t, (call) =>
    call.error({ code: 10, message: 'no quorum', applied: 1, retryable: true, retry_after_ms: 1 }),
  );
  const well = await fakeServer(t, answer);
  for (let i = 0; i < 8; ++i) {
    const client = clientOf(t, [cut, well]); // it begins at a random one
    for (let j = 0; j < 5; ++j) await client.put('k', 'v');
    client.close();
  }
  assert.ok(cut.calls.length <= 8, `${cut.calls.length} of 40 calls were made where none is answered`);
});

test('each address has a connection, however small the pool is, and only one', async (t) => {
  const nodes = await cluster(t, 3, (key) => Number(key[0]));
  const client = clientOf(t, nodes, { poolSize: 1 });
  const keys = Array.from({ length: 300 }, (_, i) => `${i % 3}/${i}`);
  const found = await Promise.all(keys.map((key) => client.get(key)));
  assert.deepEqual(
    found.map((one) => one.value.toString()),
    keys,
  );
  assert.ok(nodes.every((node) => node.accepts <= 2), `${nodes.map((node) => node.accepts)}`);
  const connections = nodes.reduce((sum, node) => sum + node.accepts, 0);
  assert.ok(connections <= 4, `${connections} connections: one of the pool, and one for each address`);
});
