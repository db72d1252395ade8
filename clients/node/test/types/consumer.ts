// Compiles only if the types are right for a user of the package. It is never run.
import { Client, DeadlineError, PandoError, type KvRecord, type Row, type Snapshot } from '../..';

export async function use(): Promise<void> {
  await using client = new Client(['127.0.0.1:7450'], { readLevel: 'bounded', maxStalenessMs: 100 });
  const record: KvRecord | null = await client.get(Buffer.from('k'), { timeoutMs: 5, signal: AbortSignal.timeout(5) });
  const version: bigint = record?.version ?? 0n;
  const { applied, current } = await client.put('k', new Uint8Array(3), { ifVersion: version, ttlMs: 5 });
  const number: bigint = await client.increment('n', -1n);
  await using snapshot = await client.snapshot();
  for await (const row of snapshot.scan({ prefix: 'k', reverse: true })) {
    const { key, valueBytes }: Row = row;
    console.log(key.toString(), valueBytes, applied, current?.value, number);
  }
  const counted: bigint = await client.withSnapshot((open: Snapshot) => open.count({ start: 'a', end: 'b' }));
  for await (const change of client.watch({ afterVersion: snapshot.version })) console.log(change.removed, counted);
  const { results } = await client.writeBatch([
    { type: 'put', key: 'k', value: 'v', ifExists: false },
    { type: 'remove', key: 'l' },
  ]);
  const session = client.session();
  await session.get('k', { level: 'session' });
  try {
    // @ts-expect-error a write has no level for reads
    await client.put('k', 'v', { level: 'bounded' });
    // @ts-expect-error a number is no key
    await client.get(5);
    // @ts-expect-error an increment has a delta
    await client.writeBatch([{ type: 'put', key: 'k' }]);
  } catch (error) {
    if (error instanceof DeadlineError) console.log(error.tries, results[0]?.error?.advice);
    else if (error instanceof PandoError) console.log(error.codeName, error.applied === 'UNKNOWN');
  }
}
