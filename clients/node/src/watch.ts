import { onAbort } from './abort';
import { AbortError } from './errors';
import * as wire from './gen/pando_types';
import type { Invoker } from './invoker';
import type { CallOptions } from './options';
import type { DedicatedSource } from './pool';
import { EMPTY, toBytes, toOptionalI32, toOptionalI64, toTimeout } from './values';
import type { Bytes, Integer } from './values';

/** A change of a record. Read the record for its value; it may have changed again meanwhile. */
export interface Change {
  readonly key: Buffer;
  /** The version of the write. */
  readonly version: bigint;
  /** The record was removed, or has expired. */
  readonly removed: boolean;
}

/** Options of watch. `timeoutMs` is how long the cluster may be unreachable before the watch fails. */
export interface WatchOptions extends CallOptions {
  /** Changes of the records whose keys begin so. Default: all. */
  prefix?: Bytes;
  /** Begin after this version, such as that of a snapshot. Default: with what changes after the start. */
  afterVersion?: Integer;
  /** Continue at the `position` of an earlier watch of the same prefix. */
  position?: Uint8Array;
  /** End after so many changes. Default: never. */
  limit?: number;
  /** Changes that one request asks for. Default: as many as the server gives. */
  pageChanges?: number;
  /** How long one request waits for changes. Default: 10 s. It delays nothing. */
  waitMs?: number;
}

const DEFAULT_WAIT_MS = 10_000;

/**
 * The changes of a prefix, on a connection of its own. `for await (const change of watch)` ends when the loop is left,
 * when `close` is called, after `limit` changes, or with an error. After FeedGoneError, begin again with a snapshot.
 *
 * A watch from now on begins with the loop, or when `start` resolves. It repeats what it must after a lost connection,
 * so a change may come twice, but none is missed.
 */
export class Watch implements AsyncIterable<Change> {
  private readonly prefix: Buffer;
  private readonly afterVersion: bigint;
  private readonly pageChanges: number;
  private readonly waitMs: number;
  private readonly timeoutMs: number;
  private readonly stop = new AbortController();
  private readonly signal: AbortSignal | undefined;
  private readonly stopListening: () => void;
  private starting: Promise<void> | null = null;
  private changes: readonly Change[] = [];
  private index = 0;
  private before: Buffer;
  private after: Buffer;
  private left: number;
  private isClosed = false;

  /** @internal */
  constructor(
    private readonly invoker: Invoker,
    private readonly source: DedicatedSource,
    options: WatchOptions,
  ) {
    this.prefix = toBytes(options.prefix ?? EMPTY, 'prefix');
    this.afterVersion = toOptionalI64(options.afterVersion, 'afterVersion') ?? 0n;
    this.before = this.after = toBytes(options.position ?? EMPTY, 'position');
    this.left = toOptionalI32(options.limit, 'limit') ?? Infinity;
    this.pageChanges = toOptionalI32(options.pageChanges, 'pageChanges') ?? Infinity;
    this.waitMs = toTimeout(options.waitMs ?? DEFAULT_WAIT_MS, 'waitMs');
    this.timeoutMs = toTimeout(options.timeoutMs ?? invoker.timeoutMs, 'timeoutMs');
    this.signal = options.signal;
    this.stopListening = onAbort(this.signal, () => this.stop.abort(this.signal?.reason));
    if (this.signal?.aborted) this.stop.abort(this.signal.reason);
  }

  /**
   * Where another watch of the same prefix continues, also in another process. It changes with the last change of each
   * reply: if some of a reply have not been handed out yet, it is still the one before them, so they come again. Empty
   * before the start.
   */
  get position(): Buffer {
    return Buffer.from(this.index < this.changes.length ? this.before : this.after);
  }

  /** Resolves when the watch has its place: it will return every change from then on. */
  start(): Promise<void> {
    this.starting ??= this.findPlace();
    return this.starting;
  }

  // A watch from now on needs a position first: if it began by waiting, and the reply were lost, a repeated call would
  // begin later than the first one.
  private async findPlace(): Promise<void> {
    if (this.after.length > 0 || this.afterVersion > 0n) return;
    try {
      await this.fetch(0);
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** Ends the watch, also while it waits: its loop ends without an error. `position` stays. */
  close(): void {
    this.isClosed = true;
    this.dispose();
  }

  private dispose(): void {
    this.stopListening();
    this.stop.abort();
    this.source.close();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Change, void, undefined> {
    try {
      if (!this.isClosed) await this.start();
      for (;;) {
        while (this.index < this.changes.length) yield this.changes[this.index++] as Change;
        if (this.isClosed || this.left <= 0) return;
        await this.fetch(this.waitMs);
      }
    } catch (error) {
      if (!(this.isClosed && error instanceof AbortError)) throw error;
    } finally {
      this.dispose();
    }
  }

  private async fetch(waitMs: number): Promise<void> {
    const limit = Math.min(this.pageChanges, this.left);
    const { timeoutMs } = this;
    const reply = await this.invoker.invoke({
      method: 'watch',
      kind: 'none',
      source: this.source,
      options: { timeoutMs: waitMs + timeoutMs, signal: this.stop.signal },
      request: (leftMs) =>
        new wire.WatchRequest({
          prefix: this.prefix,
          position: this.after,
          after_version: this.after.length > 0 ? 0n : this.afterVersion,
          wait_ms: waitMs > 0 ? Math.floor(Math.max(1, Math.min(waitMs, leftMs - timeoutMs))) : 0,
          limit_changes: Number.isFinite(limit) ? limit : 0,
        }),
    });
    this.before = this.after;
    this.after = reply.position ?? EMPTY;
    this.changes = (reply.changes ?? []).map(fromChange);
    this.index = 0;
    this.left -= this.changes.length;
  }
}

function fromChange(change: wire.Change): Change {
  return {
    key: change.key ?? Buffer.alloc(0),
    version: change.version ?? 0n,
    removed: change.removed ?? false,
  };
}
