// A tour of Pando with its Node.js client, at the routers of ./dev up, or at other addresses:
//
//     node sample.mjs [HOST:PORT,HOST:PORT]
//
// It writes, and in the end removes, keys that begin with "node-sample/".
import { BadRequestError, Client } from 'pando-client';

// One client is enough for a process. It connects with the first call, and begins at a random router.
const client = new Client(process.argv[2] ?? '127.0.0.1:7450,127.0.0.1:7460', {
  clientName: 'sample',
  timeoutMs: 5000,
});
const text = (record) => record?.value.toString() ?? null;
try {
  const { serverVersion } = await client.serverInfo();
  console.log(`connected to Pando ${serverVersion}`);
  await tour();
  console.log('removed:', await client.deleteRange({ prefix: 'node-sample/' }), 'records');
} finally {
  await client.close();
}

async function tour() {
  // A write is acknowledged once it will survive the loss of any one node.
  await client.put('node-sample/fruit/apple', 'red');
  await client.put('node-sample/fruit/pear', Buffer.from('green'));
  const apple = await client.get('node-sample/fruit/apple');
  console.log('get:', text(apple), '- no such key:', await client.get('node-sample/fruit/none'));

  // Change it only if nobody else has changed it since it was read. A failed condition is a result, not an error.
  const ours = await client.put('node-sample/fruit/apple', 'yellow', { ifVersion: apple.version });
  const late = await client.put('node-sample/fruit/apple', 'blue', { ifVersion: apple.version });
  console.log('first update applied:', ours.applied, '- second:', late.applied, 'because it is', text(late.current));

  // Counters are applied once, however often the client has to send them. Every 64-bit number is a bigint.
  await client.increment('node-sample/visits', 2n ** 53n);
  console.log('counter:', await client.increment('node-sample/visits'));

  // Keys with the same {tag} share a partition. All ops of this batch become visible together, or none.
  const { results } = await client
    .batch()
    .put('node-sample/{order7}/state', 'paid')
    .increment('node-sample/{order7}/changes')
    .write({ allOrNothing: true });
  console.log(
    'batch applied:',
    results.every((result) => result.applied),
  );

  // Each visit extends a session by an hour, without sending its value again.
  await client.put('node-sample/session/1', '...', { ttlMs: 3_600_000 });
  const touched = await client.touch('node-sample/session/1', { ttlMs: 3_600_000 });
  const last = await client.remove('node-sample/session/1', { returnPrevious: true });
  console.log('touched:', touched.applied, '- removed; its value was', text(last.previous));

  // Rows come in the byte order of their keys, across all partitions, page by page.
  for await (const row of client.scan({ prefix: 'node-sample/fruit/' }))
    console.log('scan:', row.key.toString(), row.value.toString());

  // A snapshot does not see later writes. A watch from its version misses nothing.
  await client.withSnapshot(async (snapshot) => {
    await client.remove('node-sample/fruit/pear');
    console.log(
      'in the snapshot:',
      await snapshot.count({ prefix: 'node-sample/fruit/' }),
      '- now:',
      await client.count({ prefix: 'node-sample/fruit/' }),
    );
    for await (const change of client.watch({ prefix: 'node-sample/fruit/', afterVersion: snapshot.version, limit: 1 })) {
      console.log('watch:', change.key.toString(), change.removed ? 'removed' : 'written');
    }
  });

  try {
    await client.put('', 'no key');
  } catch (error) {
    // `applied` says whether a write may have taken effect, and `advice` what to do.
    if (!(error instanceof BadRequestError)) throw error;
    console.log(`an error: ${error.codeName} (${error.message}), applied: ${error.applied}. ${error.advice}`);
  }
}
