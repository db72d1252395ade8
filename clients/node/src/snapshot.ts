import { PandoError } from './errors';
import * as wire from './gen/pando_types';
import type { Invoker } from './invoker';
import type { CallOptions, SnapshotRef } from './options';
import { ReadOperations } from './reader';
import { toI32 } from './values';

/** Options of snapshot. */
export interface SnapshotOptions extends CallOptions {
  /** How long it lives after it was opened or renewed, in ms, ten minutes at most. 0, the default, is a minute. */
  ttlMs?: number;
  /** Renew it in the background, at a third of its ttl. Default: true. */
  autoRenew?: boolean;
}

/** @internal */
export const DEFAULT_SNAPSHOT_TTL_MS = 60_000;
const MAX_SNAPSHOT_TTL_MS = 600_000;

/**
 * Everything as it was at one moment. Close it: it keeps replaced data on the disks of the nodes.
 *
 * @example
 * ```ts
 * await using snapshot = await client.snapshot();   // TypeScript 5.2, and Node.js 18.18 or later
 * const count = await snapshot.count({ prefix: 'fruit/' });
 * ```
 */
export class Snapshot extends ReadOperations {
  private readonly ttlMs: number;
  private readonly data: Buffer;
  private expires: bigint;
  private timer: NodeJS.Timeout | null = null;
  private isClosed = false;
  /** No write in the snapshot has a higher version, no later one a lower. Watch from it to miss nothing. */
  readonly version: bigint;

  /** Closes it; if that fails, it expires by itself. Exists if Node.js has Symbol.asyncDispose (18.18 or later). */
  declare [Symbol.asyncDispose]: () => Promise<void>;

  /** @internal */
  constructor(invoker: Invoker, reply: wire.SnapshotReply, ttlMs: number, autoRenew: boolean) {
    super(invoker);
    this.data = reply.snapshot ?? Buffer.alloc(0);
    this.version = reply.version ?? 0n;
    this.expires = reply.expires_at_ms ?? 0n;
    this.ttlMs = ttlMs;
    if (autoRenew) this.renewInBackground();
  }

  /** @internal */
  protected override get ownSnapshot(): SnapshotRef {
    return this.data;
  }

  /** Names the snapshot in other processes: `get(key, { snapshot: token })`. A copy. */
  get token(): Buffer {
    return Buffer.from(this.data);
  }

  /** Unix time in ms at which it is released unless it is renewed. */
  get expiresAtMs(): bigint {
    return this.expires;
  }

  /** Lets it live so long from now on (default: the ttl that it was opened with). Throws SnapshotGoneError. */
  async renew(ttlMs: number = this.ttlMs, options: CallOptions = {}): Promise<void> {
    const request = new wire.RenewSnapshotRequest({ snapshot: this.data, ttl_ms: toI32(ttlMs, 'ttlMs') });
    const reply = await this.invoker.invoke({ method: 'renewSnapshot', kind: 'none', options, request });
    this.expires = reply.expires_at_ms ?? 0n;
  }

  /** Releases it. Resolves with false if it was already gone, so also when it is called again. */
  async close(options: CallOptions = {}): Promise<boolean> {
    this.stopRenewing();
    if (this.isClosed) return false;
    const request = new wire.ReleaseSnapshotRequest({ snapshot: this.data });
    const reply = await this.invoker.invoke({ method: 'releaseSnapshot', kind: 'none', options, request });
    this.isClosed = true;
    return reply.existed ?? false;
  }

  // The reads notice if it is gone, so a failure is not told here.
  private renewInBackground(): void {
    const thirdMs = Math.min(this.ttlMs || DEFAULT_SNAPSHOT_TTL_MS, MAX_SNAPSHOT_TTL_MS) / 3;
    this.timer = setTimeout(() => {
      this.renew(this.ttlMs, { timeoutMs: Math.max(1, thirdMs) }).then(
        () => this.timer && this.renewInBackground(),
        (error: unknown) => {
          const again = error instanceof PandoError && error.retryable;
          if (again && this.timer) this.renewInBackground();
        },
      );
    }, thirdMs);
    this.timer.unref();
  }

  private stopRenewing(): void {
    if (this.timer) clearTimeout(this.timer);
    this.timer = null;
  }
}

if (Symbol.asyncDispose) {
  Object.defineProperty(Snapshot.prototype, Symbol.asyncDispose, {
    value: async function (this: Snapshot): Promise<void> {
      await this.close().catch(() => {});
    },
  });
}
