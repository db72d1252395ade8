// The operations of the conformance cases, by their names there; see ../../conformance/README.md. Each takes the step's
// resolved arguments and returns the result in the words of the cases.
import { setTimeout as delay } from 'node:timers/promises';
import * as pando from '../dist/index.js';

const KINDS = [
  [pando.BadRequestError, 'BadRequest'],
  [pando.UnavailableError, 'Unavailable'],
  [pando.DeadlineError, 'Deadline'],
  [pando.SnapshotGoneError, 'SnapshotGone'],
  [pando.FeedGoneError, 'FeedGone'],
  [pando.SessionLostError, 'SessionLost'],
  [pando.DiskFullError, 'DiskFull'],
  [pando.CorruptError, 'Corrupt'],
  [pando.InternalError, 'Internal'],
];

const camel = (name) => name.replace(/_(\w)/g, (_, letter) => letter.toUpperCase());
const withoutNulls = (object) => Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined));

/** What an error is in the cases; null if it is none of the client's. */
export function fromError(error) {
  if (!(error instanceof pando.PandoError)) return null;
  return {
    code: error.codeName,
    number: error.code,
    applied: error.applied,
    retryable: error.retryable,
    kind: KINDS.find(([type]) => error instanceof type)?.[1] ?? 'PandoError',
    message: error.message,
    tries: error.tries ?? null,
    cause: fromError(error.cause),
  };
}

/** The options of a client. */
export function clientOptions({ addresses: _, as: __, ...options }) {
  const named = Object.fromEntries(Object.entries(options).map(([name, value]) => [camel(name), value]));
  for (const level of ['readLevel', 'writeLevel']) if (named[level]) named[level] = named[level].toLowerCase();
  return named;
}

// Conditions, expiries and the rest differ from the options of the client in their spelling only.
function toOptions(args, without = []) {
  const { level, ...rest } = args;
  for (const name of without) delete rest[name];
  const options = Object.fromEntries(Object.entries(rest).map(([name, value]) => [camel(name), value]));
  if (level) options.level = level.toLowerCase();
  return options;
}

function fromRecord(record) {
  return record && { value: record.value, version: record.version, expires_at_ms: record.expiresAtMs };
}

function fromWrite(result) {
  return {
    applied: result.applied,
    version: result.version,
    existed: result.existed,
    current: fromRecord(result.current),
    number: result.number,
    previous: fromRecord(result.previous),
    previous_omitted: result.previousOmitted,
    ...('withheld' in result ? { withheld: result.withheld, error: fromError(result.error) } : {}),
  };
}

function fromRow(row) {
  const { key, value, version, expiresAtMs, removed, valueBytes } = row;
  return { key, value, version, expires_at_ms: expiresAtMs, removed, value_bytes: valueBytes };
}

function fromRows(rows, cursor, pages) {
  const converted = rows.map(fromRow);
  return { rows: converted, keys: converted.map((row) => row.key), count: rows.length, pages, cursor };
}

function toOp(op) {
  const [[type, args]] = Object.entries(op);
  return { type, ...toOptions(args) };
}

// `limit` is exact; the rest of the time that the step has is waited out, because the loop has no end of its own.
async function watch(client, args) {
  const { max_changes: limit, wait_ms: waitMs = 0, ...rest } = args;
  const stream = client.watch(withoutNulls({ ...toOptions(rest), limit, waitMs: Math.max(waitMs, 1) }));
  await stream.start();
  const timer = setTimeout(() => stream.close(), Math.max(waitMs, 500));
  const changes = [];
  try {
    for await (const { key, version, removed } of stream) changes.push({ key, version, removed });
  } finally {
    clearTimeout(timer);
  }
  return { changes, position: stream.position };
}

async function fill(client, { prefix, count, digits = 4, value }) {
  for (let from = 0; from < count; from += 500) {
    const batch = client.batch();
    for (let i = from; i < Math.min(from + 500, count); ++i) {
      const number = String(i);
      batch.put(Buffer.concat([Buffer.from(prefix), Buffer.from(number.padStart(digits, '0'))]), value ?? number);
    }
    const { results } = await batch.write();
    const failed = results.find((result) => result.error);
    if (failed) throw failed.error;
  }
  return {};
}

async function serverInfo(client, args) {
  const info = await client.serverInfo(toOptions(args));
  const snake = (object) =>
    Object.fromEntries(
      Object.entries(object).map(([name, value]) => [name.replace(/[A-Z]/g, (l) => `_${l.toLowerCase()}`), value]),
    );
  return { ...snake(info), limits: snake(info.limits) };
}

/** Reads and writes: of a client, a session or a snapshot. */
export const OPERATIONS = {
  get: async (on, args) => fromRecord(await on.get(args.key, toOptions(args, ['key']))),
  put: async (on, args) => fromWrite(await on.put(args.key, args.value, toOptions(args, ['key', 'value']))),
  remove: async (on, args) => fromWrite(await on.remove(args.key, toOptions(args, ['key']))),
  increment: async (on, args) => ({
    number: await on.increment(args.key, args.delta, toOptions(args, ['key', 'delta'])),
  }),
  touch: async (on, args) => fromWrite(await on.touch(args.key, toOptions(args, ['key']))),
  multi_get: async (on, args) => ({
    records: (await on.multiGet(args.keys, toOptions(args, ['keys']))).map(fromRecord),
  }),
  write_batch: async (on, args) => {
    const options = {
      ...toOptions(args, ['ops', 'conditions']),
      conditions: (args.conditions ?? []).map((c) => toOptions(c)),
    };
    const { results, failedConditions } = await on.writeBatch(args.ops.map(toOp), options);
    const failed = failedConditions.map(({ index, current }) => ({ index, current: fromRecord(current) }));
    return { results: results.map(fromWrite), failed_conditions: failed };
  },
  scan: async (on, args) => {
    const scan = on.scan(toOptions(args));
    const rows = await scan.toArray();
    return fromRows(rows, scan.cursor, scan.pages);
  },
  scan_page: async (on, args) => {
    const page = await on.scanPage(toOptions(args));
    return fromRows(page.rows, page.cursor, 1);
  },
  count: async (on, args) => ({ count: await on.count(toOptions(args)) }),
  aggregate: async (on, args) => {
    const { count, bytes, contentHash } = await on.aggregate(toOptions(args));
    return { count, bytes, content_hash: contentHash };
  },
  split_range: async (on, args) => {
    const parts = await on.splitRange(args.parts, toOptions(args, ['parts']));
    return { parts, total: parts.reduce((sum, part) => sum + part.count, 0n) };
  },
  delete_range: async (on, args) => ({ removed: await on.deleteRange(toOptions(args)) }),
  fill,
  sleep_ms: async (_, ms) => (await delay(ms), {}),
};

/** What only a client has. */
export const CLIENT_OPERATIONS = { watch, server_info: serverInfo };
