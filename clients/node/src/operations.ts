import { Batch, toKeyCondition, toOp } from './batch';
import type { BatchContent, BatchOp, BatchOptions } from './batch';
import { BatchTries } from './batch_tries';
import * as wire from './gen/pando_types';
import type { Invoker } from './invoker';
import { toCondition, toExpiry, toRange } from './options';
import type { CallOptions, IncrementOptions, PutOptions, RangeOptions, RemoveOptions, TouchOptions } from './options';
import { ReadOperations } from './reader';
import { fromBatchReply, fromWriteResult } from './results';
import type { BatchResult, WriteResult } from './results';
import { DEFAULT_SNAPSHOT_TTL_MS, Snapshot } from './snapshot';
import type { SnapshotOptions } from './snapshot';
import { EMPTY, toBytes, toI32, toI64, toOptionalI32, toOptionalI64 } from './values';
import type { Bytes, Integer } from './values';

/** Options of deleteRange. `timeoutMs` is the time of each request, and not of the whole call. */
export interface DeleteRangeOptions extends CallOptions, RangeOptions {
  /** Records that one request examines. Default: as many as the server allows. */
  pageRows?: number;
  /** Only records with at most this version, such as that of a snapshot: what was written since survives. */
  maxVersion?: Integer;
}

/** What clients and sessions can do: reads, writes, and snapshots. All throw {@link PandoError}. */
export abstract class KvOperations extends ReadOperations {
  /** @internal */
  protected constructor(invoker: Invoker) {
    super(invoker);
  }

  /** Creates or replaces a record. */
  async put(key: Bytes, value: Bytes, options: PutOptions = {}): Promise<WriteResult> {
    const request = new wire.PutRequest({
      key: toBytes(key, 'key'),
      value: toBytes(value, 'value'),
      condition: toCondition(options),
      ...toExpiry(options),
      return_previous: options.returnPrevious ?? false,
    });
    return fromWriteResult(await this.invoker.invoke({ method: 'put', kind: 'write', options, request }));
  }

  /** Removes a record. If there is none, that is no error: `existed` is false. */
  async remove(key: Bytes, options: RemoveOptions = {}): Promise<WriteResult> {
    const request = new wire.RemoveRequest({
      key: toBytes(key, 'key'),
      condition: toCondition(options),
      return_previous: options.returnPrevious ?? false,
    });
    return fromWriteResult(await this.invoker.invoke({ method: 'remove', kind: 'write', options, request }));
  }

  /**
   * Adds to a number, and returns the new one. Values of numbers are decimal text, from -2^63 to 2^63-1; a record that
   * does not exist counts as 0. It is applied once, however often the client has to send it. Conditions: see `batch`.
   */
  async increment(key: Bytes, delta: Integer = 1n, options: IncrementOptions = {}): Promise<bigint> {
    const request = new wire.IncrementRequest({
      key: toBytes(key, 'key'),
      delta: toI64(delta, 'delta'),
      ...toExpiry(options),
    });
    const result = await this.invoker.invoke({ method: 'increment', kind: 'write', options, request });
    return result.number ?? 0n;
  }

  /** Changes the expiry of a record, and leaves its value as it is. `applied` is false if there is no record. */
  async touch(key: Bytes, options: TouchOptions): Promise<WriteResult> {
    const request = new wire.TouchRequest({
      key: toBytes(key, 'key'),
      condition: toCondition(options),
      ...toExpiry(options),
    });
    return fromWriteResult(await this.invoker.invoke({ method: 'touch', kind: 'write', options, request }));
  }

  /** Begins a batch: a list of writes that is sent by its `write`. */
  batch(): Batch {
    return new Batch((content, options) => this.sendBatch(content, options));
  }

  /**
   * Makes several writes. The ops on one partition are applied together, in their order, and the others independently
   * of them. Keys with the same {tag} share a partition. What became of each op is in its result.
   * While some of them fail in a way that may pass, the batch is sent again under the same name until its time is over:
   * what was applied is not applied again.
   */
  async writeBatch(ops: readonly BatchOp[], options: BatchOptions = {}): Promise<BatchResult> {
    const content = { ops: ops.map(toOp), conditions: (options.conditions ?? []).map(toKeyCondition) };
    return this.sendBatch(content, options);
  }

  private async sendBatch({ ops, conditions }: BatchContent, options: BatchOptions): Promise<BatchResult> {
    const request = new wire.WriteBatchRequest({ ops, conditions, all_or_nothing: options.allOrNothing ?? false });
    const batch = new BatchTries(ops.length);
    const call = { method: 'writeBatch', kind: 'write', options, request, batch } as const;
    return fromBatchReply(await this.invoker.invoke(call));
  }

  /**
   * Removes the records of a range, and returns their number. It is not atomic. After an error, some of them may be
   * removed; calling again does no harm.
   */
  async deleteRange(options: DeleteRangeOptions): Promise<bigint> {
    const base = {
      ...toRange(options),
      limit_rows: toOptionalI32(options.pageRows, 'pageRows') ?? 0,
      max_version: toOptionalI64(options.maxVersion, 'maxVersion') ?? 0n,
    };
    let removed = 0n;
    let cursor = EMPTY;
    do {
      const request = new wire.DeleteRangeRequest({ ...base, cursor });
      const reply = await this.invoker.invoke({ method: 'deleteRange', kind: 'write', options, request });
      removed += reply.removed ?? 0n;
      cursor = reply.cursor ?? EMPTY;
    } while (cursor.length > 0);
    return removed;
  }

  /** Opens a snapshot: everything as it is at one moment. Close it, or use {@link withSnapshot}. */
  async snapshot(options: SnapshotOptions = {}): Promise<Snapshot> {
    const ttlMs = toI32(options.ttlMs ?? DEFAULT_SNAPSHOT_TTL_MS, 'ttlMs');
    const request = new wire.OpenSnapshotRequest({ ttl_ms: ttlMs });
    const reply = await this.invoker.invoke({ method: 'openSnapshot', kind: 'none', options, request });
    return new Snapshot(this.invoker, reply, ttlMs, options.autoRenew ?? true);
  }

  /** Opens a snapshot, calls `use` with it, and closes it when the promise of `use` has settled. */
  async withSnapshot<T>(use: (snapshot: Snapshot) => Promise<T> | T, options: SnapshotOptions = {}): Promise<T> {
    const snapshot = await this.snapshot(options);
    try {
      return await use(snapshot);
    } finally {
      await snapshot.close().catch(() => {}); // it expires by itself
    }
  }
}
