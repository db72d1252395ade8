/** Conversions between what callers pass and what the wire carries, and the clock of the client. */
import { performance } from 'node:perf_hooks';
import type * as wire from './gen/pando_types';

/**
 * Keys and values that go in: bytes, or text, which is sent as UTF-8. Text that UTF-8 cannot hold (half of a surrogate
 * pair) throws TypeError. Bytes are copied when the call is made, so the caller may change its buffer afterwards.
 */
export type Bytes = string | Uint8Array;

/** An integer that goes in: a bigint, or a number that is a safe integer. What comes out is always a bigint. */
export type Integer = bigint | number;

/** A record. Its buffer belongs to the caller. */
export interface KvRecord {
  readonly value: Buffer;
  /** The version that the last write gave it; of all writes to the key, each has a higher one. */
  readonly version: bigint;
  /** Unix time in ms at which it expires; 0n = never. */
  readonly expiresAtMs: bigint;
}

/** @internal Tests put another one in its place. */
export const clock = { now: (): number => performance.now() };

/** @internal Monotonic time in ms. */
export function now(): number {
  return clock.now();
}

/** @internal A timer of Node.js that would last longer ends at once. */
export const MAX_TIMER_MS = 0x7fffffff;

/** @internal */
export const EMPTY: Buffer = Buffer.alloc(0);
const MAX_I32 = 0x7fffffff;
const MIN_I64 = -(2n ** 63n);
const MAX_I64 = 2n ** 63n - 1n;

/** @internal */
export function toBytes(value: Bytes, name: string): Buffer {
  if (typeof value === 'string') {
    if (/\p{Surrogate}/u.test(value)) throw new TypeError(`${name} holds half of a surrogate pair, which is no UTF-8`);
    return Buffer.from(value, 'utf8');
  }
  if (value instanceof Uint8Array) return Buffer.from(value);
  throw new TypeError(`${name} must be a string, a Buffer or a Uint8Array, not ${describe(value)}`);
}

/** @internal */
export function toOptionalBytes(value: Bytes | null | undefined, name: string): Buffer | null {
  return value === undefined || value === null ? null : toBytes(value, name);
}

/** @internal */
export function toI64(value: Integer, name: string): bigint {
  if (typeof value === 'number') {
    if (!Number.isSafeInteger(value)) throw new RangeError(`${name} is ${value}; give a safe integer or a bigint`);
    return BigInt(value);
  }
  if (typeof value !== 'bigint') throw new TypeError(`${name} must be a bigint or a number, not ${describe(value)}`);
  if (value < MIN_I64 || value > MAX_I64) throw new RangeError(`${name} is ${value}; it must fit into 64 bits`);
  return value;
}

/** @internal */
export function toOptionalI64(value: Integer | null | undefined, name: string): bigint | null {
  return value === undefined || value === null ? null : toI64(value, name);
}

/** @internal A number that fits an i32 of the wire. */
export function toI32(value: number, name: string): number {
  if (typeof value !== 'number') throw new TypeError(`${name} must be a number, not ${describe(value)}`);
  if (!Number.isInteger(value) || Math.abs(value) > MAX_I32) {
    throw new RangeError(`${name} is ${value}; it must be an integer that fits into 32 bits`);
  }
  return value;
}

/** @internal */
export function toOptionalI32(value: number | null | undefined, name: string): number | null {
  return value === undefined || value === null ? null : toI32(value, name);
}

/** @internal A time that a call, or a part of it, may take. */
export function toTimeout(value: number, name: string): number {
  if (typeof value !== 'number') throw new TypeError(`${name} must be a number, not ${describe(value)}`);
  if (!(value > 0 && value <= MAX_I32)) throw new RangeError(`${name} is ${value}; it must be from 1 to ${MAX_I32} ms`);
  return value;
}

/** @internal */
export function fromRecord(record: wire.Record | null | undefined): KvRecord | null {
  if (!record?.found) return null;
  return {
    value: record.value ?? Buffer.alloc(0),
    version: record.version ?? 0n,
    expiresAtMs: record.expires_at_ms ?? 0n,
  };
}

function describe(value: unknown): string {
  return value === null ? 'null' : typeof value;
}
