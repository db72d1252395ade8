import { checkLength, fromKvError } from './errors';
import * as wire from './gen/pando_types';
import type { Invoker } from './invoker';
import { toRange, toToken } from './options';
import type { RangeOptions, SnapshotReadOptions, SnapshotRef } from './options';
import { firstCursor, rowLimit, Scan, ScanPages } from './scan';
import type { ScanOptions, ScanPage } from './scan';
import { fromRecord, toBytes, toI32 } from './values';
import type { Bytes, KvRecord } from './values';

/** Options of count, aggregate and splitRange. */
export interface RangeReadOptions extends SnapshotReadOptions, RangeOptions {}

/** What `aggregate` returns. */
export interface Aggregate {
  readonly count: bigint;
  /** The total size of keys and values. */
  readonly bytes: bigint;
  /**
   * The sum, modulo 2^64, of a hash of each record with its version and expiry, as a signed number. Those of disjoint
   * ranges add up: `BigInt.asIntN(64, a + b)`.
   */
  readonly contentHash: bigint;
}

/** A part of a range that `splitRange` returns. */
export interface RangePart {
  readonly start: Buffer;
  /** The first key after the part; empty = to the end of all keys. */
  readonly end: Buffer;
  readonly count: bigint;
  readonly bytes: bigint;
}

/** The records of a multiGet, some of which may have come before the others. */
class MultiGetTries {
  readonly records: (KvRecord | null)[];
  private indexes: number[];

  constructor(private readonly keys: readonly Buffer[]) {
    this.records = keys.map(() => null);
    this.indexes = keys.map((_, i) => i);
  }

  /** The keys that are still to be read. */
  get open(): Buffer[] {
    return this.indexes.map((i) => this.keys[i] as Buffer);
  }

  /** Throws if some keys could not be read: the error that no other try can help, if there is one. */
  take(reply: wire.MultiGetReply): void {
    const items = reply.items ?? [];
    checkLength('keys', this.indexes.length, items);
    items.forEach((item, i) => {
      if (!item.error) this.records[this.indexes[i] as number] = fromRecord(item.record);
    });
    this.indexes = this.indexes.filter((_, i) => items[i]?.error);
    const failed = items.flatMap(({ error }) => (error ? [error] : []));
    const worst = failed.find((error) => !error.retryable) ?? failed.find((error) => error.master) ?? failed[0];
    if (worst) throw fromKvError(worst, false);
  }
}

/** The reads, which clients, sessions and snapshots have. All of them throw {@link PandoError}. */
export abstract class ReadOperations {
  /** @internal */
  protected constructor(
    /** @internal */
    protected readonly invoker: Invoker,
  ) {}

  /** @internal The snapshot that is read if the options name none. */
  protected get ownSnapshot(): SnapshotRef | undefined {
    return undefined;
  }

  private target(options: SnapshotReadOptions): { kind: 'read' | 'none'; snapshot: Buffer | null } {
    const snapshot = toToken(options.snapshot ?? this.ownSnapshot);
    return { kind: snapshot ? 'none' : 'read', snapshot };
  }

  /** The record of a key, or null if there is none. */
  async get(key: Bytes, options: SnapshotReadOptions = {}): Promise<KvRecord | null> {
    const { kind, snapshot } = this.target(options);
    const request = new wire.GetRequest({ key: toBytes(key, 'key'), snapshot });
    const reply = await this.invoker.invoke({ method: 'get', kind, options, request });
    return fromRecord(reply.record);
  }

  /**
   * The records of several keys, in their order; null where there is none. Without a snapshot they may belong to
   * different moments. Keys that cannot be read are read again until the time is over.
   */
  async multiGet(keys: readonly Bytes[], options: SnapshotReadOptions = {}): Promise<(KvRecord | null)[]> {
    const { kind, snapshot } = this.target(options);
    const tries = new MultiGetTries(keys.map((key) => toBytes(key, 'key')));
    const request = (): wire.MultiGetRequest => new wire.MultiGetRequest({ keys: tries.open, snapshot });
    const check = (reply: wire.MultiGetReply): void => tries.take(reply);
    await this.invoker.invoke({ method: 'multiGet', kind, options, request, check });
    return tries.records;
  }

  /**
   * The rows of a range, in the byte order of their keys. Without a snapshot, each page shows its own moment: a record
   * that exists during the whole scan is returned exactly once, and one that is written meanwhile may be missed or
   * seen.
   *
   * @example
   * ```ts
   * for await (const row of client.scan({ prefix: 'fruit/' })) console.log(row.key.toString(), row.version);
   * ```
   */
  scan(options: ScanOptions = {}): Scan {
    return new Scan(this.invoker, this.scanOptions(options));
  }

  /** One page of a scan, for callers that keep the cursor themselves. */
  async scanPage(options: ScanOptions = {}): Promise<ScanPage> {
    const pages = new ScanPages(this.invoker, this.scanOptions(options));
    return pages.page(firstCursor(options), rowLimit(options));
  }

  private scanOptions(options: ScanOptions): ScanOptions {
    const { ownSnapshot } = this;
    return options.snapshot || !ownSnapshot ? options : { ...options, snapshot: ownSnapshot };
  }

  /** The number of records in a range. */
  async count(options: RangeReadOptions = {}): Promise<bigint> {
    const { kind, snapshot } = this.target(options);
    const request = new wire.CountRequest({ ...toRange(options), snapshot });
    const reply = await this.invoker.invoke({ method: 'count', kind, options, request });
    return reply.count ?? 0n;
  }

  /** Number, size and hash of the records in a range. It takes about as long for large ranges as for small ones. */
  async aggregate(options: RangeReadOptions = {}): Promise<Aggregate> {
    const { kind, snapshot } = this.target(options);
    const request = new wire.AggregateRequest({ ...toRange(options), snapshot });
    const reply = await this.invoker.invoke({ method: 'aggregate', kind, options, request });
    return { count: reply.count ?? 0n, bytes: reply.bytes ?? 0n, contentHash: reply.content_hash ?? 0n };
  }

  /** Splits a range into 2 to 256 parts with about as many records each; fewer parts if there are few records. */
  async splitRange(parts: number, options: RangeReadOptions = {}): Promise<RangePart[]> {
    const { kind, snapshot } = this.target(options);
    const request = new wire.SplitRangeRequest({ ...toRange(options), parts: toI32(parts, 'parts'), snapshot });
    const reply = await this.invoker.invoke({ method: 'splitRange', kind, options, request });
    return (reply.parts ?? []).map((part) => ({
      start: part.start_key ?? Buffer.alloc(0),
      end: part.end_key ?? Buffer.alloc(0),
      count: part.count ?? 0n,
      bytes: part.bytes ?? 0n,
    }));
  }
}
