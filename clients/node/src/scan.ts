import * as wire from './gen/pando_types';
import type { Invoker } from './invoker';
import { toRange, toToken } from './options';
import type { RangeOptions, SnapshotReadOptions, SnapshotRef } from './options';
import { EMPTY, toBytes, toOptionalI32 } from './values';

/** A record with its key, as a scan returns it. Its buffers belong to the caller. */
export interface Row {
  readonly key: Buffer;
  /** Empty with `keysOnly`, with `sizesOnly`, and if `removed`. */
  readonly value: Buffer;
  readonly version: bigint;
  /** Unix time in ms at which it expires; 0n = never. */
  readonly expiresAtMs: bigint;
  /** With `since`: the record existed then, and does not exist now. */
  readonly removed: boolean;
  /** The size of the value, with `sizesOnly`; else null. */
  readonly valueBytes: bigint | null;
}

/** Options of scan. `timeoutMs` is the time of each request, and not of the whole scan. */
export interface ScanOptions extends SnapshotReadOptions, RangeOptions {
  /** From the end of the range to its start. */
  reverse?: boolean;
  /** Leave out the values. */
  keysOnly?: boolean;
  /** Leave out the values, and say how long they are. */
  sizesOnly?: boolean;
  /** End after so many rows. Default: at the end of the range. */
  limit?: number;
  /** Rows that one request asks for. Default: as many as the server gives. */
  pageRows?: number;
  /** Bytes that one request asks for. Default: as many as the server gives. */
  pageBytes?: number;
  /** Only what has changed since this older snapshot, which must be open. Not with `reverse`. */
  since?: SnapshotRef;
  /** Only one slice of so many. All slices have about as many rows, and jobs may read them side by side. */
  slices?: number;
  /** Which slice, from 0. */
  slice?: number;
  /** Continue where another scan of the same range, direction, snapshots and slice ended: its `cursor`. */
  cursor?: Uint8Array;
}

/** What one request of a scan returns. */
export interface ScanPage {
  /** May be empty although there are more. */
  readonly rows: Row[];
  /** Where to continue; empty at the end of the range. */
  readonly cursor: Buffer;
}

/** @internal The requests of a scan: they differ in their cursors and numbers of rows only. */
export class ScanPages {
  private readonly base: Partial<wire.ScanRequest>;
  private readonly pageRows: number;

  constructor(
    private readonly invoker: Invoker,
    private readonly options: ScanOptions,
  ) {
    this.pageRows = toOptionalI32(options.pageRows, 'pageRows') ?? 0;
    this.base = {
      ...toRange(options),
      reverse: options.reverse ?? false,
      keys_only: options.keysOnly ?? false,
      sizes_only: options.sizesOnly ?? false,
      limit_bytes: toOptionalI32(options.pageBytes, 'pageBytes') ?? 0,
      snapshot: toToken(options.snapshot),
      since: toToken(options.since, 'since'),
      slices: toOptionalI32(options.slices, 'slices') ?? 0,
      slice: toOptionalI32(options.slice, 'slice') ?? 0,
    };
  }

  async page(cursor: Buffer, mostRows: number): Promise<ScanPage> {
    const rows = this.pageRows > 0 ? Math.min(this.pageRows, mostRows) : mostRows;
    const limitRows = Number.isFinite(rows) ? rows : 0;
    const reply = await this.invoker.invoke({
      method: 'scan',
      // Not every replica has a snapshot, so a level that may ask any does not go with one.
      kind: this.base.snapshot || this.base.since ? 'none' : 'read',
      options: this.options,
      request: new wire.ScanRequest({ ...this.base, cursor, limit_rows: limitRows }),
      ...(this.base.slices ? { needs: 'slices' } : {}),
    });
    return { rows: (reply.rows ?? []).map(fromRow), cursor: reply.cursor ?? EMPTY };
  }
}

function fromRow(row: wire.Row): Row {
  return {
    key: row.key ?? Buffer.alloc(0),
    value: row.value ?? Buffer.alloc(0),
    version: row.version ?? 0n,
    expiresAtMs: row.expires_at_ms ?? 0n,
    removed: row.removed ?? false,
    valueBytes: row.value_bytes,
  };
}

/** @internal */
export function firstCursor(options: ScanOptions): Buffer {
  return toBytes(options.cursor ?? EMPTY, 'cursor');
}

/** @internal Rows that a scan may still return. */
export function rowLimit(options: ScanOptions): number {
  return toOptionalI32(options.limit, 'limit') ?? Infinity;
}

/**
 * A scan under way. `for await (const row of scan)` reads its rows page by page; leaving the loop costs nothing, and
 * another loop continues behind the last row. Use it from one place at a time.
 */
export class Scan implements AsyncIterable<Row> {
  private readonly source: ScanPages;
  private rows: readonly Row[] = [];
  private index = 0;
  private before: Buffer;
  private after: Buffer;
  private left: number;
  private requests = 0;

  /** @internal */
  constructor(invoker: Invoker, options: ScanOptions) {
    this.source = new ScanPages(invoker, options);
    this.before = this.after = firstCursor(options);
    this.left = rowLimit(options);
  }

  /**
   * Where another scan continues, also in another process. It changes with the last row of each page: if rows of a page
   * have not been handed out yet, it is still the one before them, so they come again. Empty before the first page, and
   * at the end of the range.
   */
  get cursor(): Buffer {
    return Buffer.from(this.index < this.rows.length ? this.before : this.after);
  }

  /** All rows were handed out. */
  get done(): boolean {
    return this.index >= this.rows.length && (this.left <= 0 || (this.requests > 0 && this.after.length === 0));
  }

  /** The number of requests made. */
  get pages(): number {
    return this.requests;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Row, void, undefined> {
    for (;;) {
      while (this.index < this.rows.length) yield this.rows[this.index++] as Row;
      if (this.done) return;
      const page = await this.source.page(this.after, this.left);
      this.requests += 1;
      this.before = this.after;
      this.after = page.cursor;
      this.rows = page.rows;
      this.index = 0;
      this.left -= page.rows.length;
    }
  }

  /** Reads the rest of the rows. Mind the memory. */
  async toArray(): Promise<Row[]> {
    const rows: Row[] = [];
    for await (const row of this) rows.push(row);
    return rows;
  }
}
