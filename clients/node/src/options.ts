/** Options of calls, and what they are on the wire. */
import * as wire from './gen/pando_types';
import { EMPTY, toBytes, toI64, toOptionalBytes, toOptionalI64 } from './values';
import type { Bytes, Integer } from './values';

/** Every call takes these. */
export interface CallOptions {
  /** The time that the call may take, with all its tries, in ms. Default: that of the client. */
  timeoutMs?: number;
  /** Ends the call with AbortError. A write that was sent may then still take effect. */
  signal?: AbortSignal;
}

/**
 * What a read sees. `linearizable` (the default): every write that was acknowledged before the read began. `bounded`:
 * what was acknowledged `maxStalenessMs` before, at any replica. `session`: all that the session has seen, at any
 * replica.
 */
export type ReadLevel = 'linearizable' | 'bounded' | 'session';

/**
 * When a write is acknowledged. `quorum` (the default): when it will survive the loss of any one node. `all`: on the
 * disks of all replicas. `one`: on the master's disk; it may be lost. Only puts and removes without conditions have it.
 */
export type WriteLevel = 'one' | 'quorum' | 'all';

/** Options of reads. */
export interface ReadOptions extends CallOptions {
  /** Default: that of the client, or `session` in a session. */
  level?: ReadLevel;
  /** For the level `bounded`. */
  maxStalenessMs?: number;
}

/** Something that names an open snapshot: a Snapshot of this process, or the token of one of another process. */
export type SnapshotRef = { readonly token: Uint8Array } | Uint8Array;

/** Options of reads that may read a snapshot. */
export interface SnapshotReadOptions extends ReadOptions {
  /** Read this snapshot, and not the newest state. */
  snapshot?: SnapshotRef;
}

/** Options of writes. */
export interface WriteOptions extends CallOptions {
  /** Default: that of the client. */
  level?: WriteLevel;
}

/** All that are given must hold, else nothing is written, and the result says so: `applied` is false. */
export interface ConditionOptions {
  /** The record has this version. */
  ifVersion?: Integer;
  /** The record has this value. */
  ifValue?: Bytes;
  /** There is a record, or there is none. */
  ifExists?: boolean;
}

/** At most one of them. Without one, an existing record keeps its expiry, and a new one has none. */
export interface ExpiryOptions {
  /** It expires so many ms after the write. */
  ttlMs?: Integer;
  /** It expires at this Unix time in ms. */
  expiresAtMs?: Integer;
  /** `keep`: leave it as it is. `clear`: it never expires. */
  ttl?: 'keep' | 'clear';
}

/** Options of put. */
export interface PutOptions extends WriteOptions, ConditionOptions, ExpiryOptions {
  /** Return the record that was replaced. */
  returnPrevious?: boolean;
}

/** Options of remove. */
export interface RemoveOptions extends WriteOptions, ConditionOptions {
  /** Return the record that was removed. */
  returnPrevious?: boolean;
}

/** Options of increment. */
export interface IncrementOptions extends WriteOptions, ExpiryOptions {}

/** Options of touch: one of ExpiryOptions other than `keep`. */
export interface TouchOptions extends WriteOptions, ConditionOptions, ExpiryOptions {}

/** A range of keys in byte order. Without any of these: all keys. */
export interface RangeOptions {
  /** The first key. */
  start?: Bytes;
  /** The first key after the range. */
  end?: Bytes;
  /** Only keys that begin so. */
  prefix?: Bytes;
}

const LEVELS: ReadonlyMap<string, number> = new Map([
  ['one', wire.LEVEL_ONE],
  ['quorum', wire.LEVEL_QUORUM],
  ['all', wire.LEVEL_ALL],
  ['linearizable', wire.LEVEL_LINEARIZABLE],
  ['bounded', wire.LEVEL_BOUNDED],
  ['session', wire.LEVEL_SESSION],
]);

/** @internal 0 = the server's default. The server refuses a level for writes with a read, and the other way round. */
export function toLevel(level: ReadLevel | WriteLevel | undefined): number {
  if (level === undefined) return 0;
  const number = LEVELS.get(level);
  if (number === undefined) throw new TypeError(`there is no level "${level}"`);
  return number;
}

/** @internal */
export function toCondition(options: ConditionOptions): wire.Condition | null {
  const { ifVersion, ifValue, ifExists } = options;
  const fields: Partial<wire.Condition> = {
    version: toOptionalI64(ifVersion, 'ifVersion'),
    value: toOptionalBytes(ifValue, 'ifValue'),
    exists: ifExists ?? null,
  };
  return Object.values(fields).every((field) => field === null) ? null : new wire.Condition(fields);
}

interface ExpiryFields {
  ttl_mode?: number;
  ttl_ms?: bigint;
  expires_at_ms?: bigint;
}

/** @internal */
export function toExpiry(options: ExpiryOptions): ExpiryFields {
  const { ttlMs, expiresAtMs, ttl } = options;
  const given = [ttlMs, expiresAtMs, ttl].filter((option) => option !== undefined && option !== null);
  if (given.length > 1) throw new TypeError('give one of ttlMs, expiresAtMs and ttl');
  if (ttlMs !== undefined && ttlMs !== null) return { ttl_mode: wire.TTL_SET, ttl_ms: toI64(ttlMs, 'ttlMs') };
  if (expiresAtMs !== undefined && expiresAtMs !== null) {
    return { ttl_mode: wire.TTL_SET_ABSOLUTE, expires_at_ms: toI64(expiresAtMs, 'expiresAtMs') };
  }
  if (ttl === 'clear') return { ttl_mode: wire.TTL_CLEAR };
  if (ttl !== undefined && ttl !== null && ttl !== 'keep') throw new TypeError(`ttl is "${ttl}"; give keep or clear`);
  return {};
}

/** @internal */
export function toRange(range: RangeOptions): { start_key: Buffer; end_key: Buffer; prefix: Buffer } {
  return {
    start_key: toBytes(range.start ?? EMPTY, 'start'),
    end_key: toBytes(range.end ?? EMPTY, 'end'),
    prefix: toBytes(range.prefix ?? EMPTY, 'prefix'),
  };
}

/** @internal */
export function toToken(snapshot: SnapshotRef | undefined, name = 'snapshot'): Buffer | null {
  if (snapshot === undefined || snapshot === null) return null;
  return toBytes(snapshot instanceof Uint8Array ? snapshot : snapshot.token, name);
}
