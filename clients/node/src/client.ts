import { onAbort } from './abort';
import { Caller } from './caller';
import type { SessionState } from './caller';
import type { Invocation, Invoker } from './invoker';
import { abortError, DeadlineError, transportError } from './errors';
import { KvOperations } from './operations';
import { toLevel } from './options';
import type { CallOptions, ReadLevel, WriteLevel } from './options';
import { AddressBook, DedicatedSource, parseAddress, Pool } from './pool';
import type { Method, ReplyOf } from './protocol';
import { MAX_TIMER_MS, now, toBytes, toI32, toTimeout } from './values';
import { Watch } from './watch';
import type { WatchOptions } from './watch';

/** Options of a client. */
export interface ClientOptions {
  /** The time that a call may take, with all its tries, in ms. Default: 10 s. */
  timeoutMs?: number;
  /** At most so many connections, of 128 requests each. More than one is opened only when they are full. Default: 8. */
  poolSize?: number;
  /** The time that connecting may take, with hello, in ms. Default: 2 s. */
  connectTimeoutMs?: number;
  /** For logs and metrics of the server. */
  clientName?: string;
  /** The level of reads that say none. Default: `linearizable`. */
  readLevel?: ReadLevel;
  /** The level of writes that say none. Default: `quorum`. */
  writeLevel?: WriteLevel;
  /** For reads at the level `bounded` that do not say it. */
  maxStalenessMs?: number;
}

/** What a server says of itself. */
export interface ServerInfo {
  readonly serverVersion: string;
  readonly apiVersion: number;
  /** Of the node or router that was asked. */
  readonly nodeId: string;
  readonly clusterId: string;
  readonly features: readonly string[];
  readonly limits: ServerLimits;
}

/** Limits of requests and replies. */
export interface ServerLimits {
  readonly maxKeyBytes: number;
  readonly maxValueBytes: number;
  readonly maxBatchOps: number;
  readonly maxBatchBytes: number;
  readonly maxMultiGetKeys: number;
  readonly maxFrameBytes: number;
  readonly maxScanRows: number;
  readonly maxScanBytes: number;
}

class ClientInvoker implements Invoker {
  readonly timeoutMs: number;
  readonly pool: Pool;
  private readonly caller: Caller;
  private readonly readLevel: number;
  private readonly writeLevel: number;
  private readonly maxStalenessMs: number;

  constructor(addresses: readonly string[], options: ClientOptions) {
    this.timeoutMs = toTimeout(options.timeoutMs ?? 10_000, 'timeoutMs');
    this.readLevel = toLevel(options.readLevel);
    this.writeLevel = toLevel(options.writeLevel);
    this.maxStalenessMs = toI32(options.maxStalenessMs ?? 0, 'maxStalenessMs');
    const size = toI32(options.poolSize ?? 8, 'poolSize');
    if (size < 1) throw new RangeError(`poolSize is ${size}; it must be positive`);
    this.pool = new Pool(new AddressBook(addresses.map(parseAddress)), size, {
      clientName: options.clientName ?? '',
      connectTimeoutMs: toTimeout(options.connectTimeoutMs ?? 2000, 'connectTimeoutMs'),
    });
    this.caller = new Caller(this.pool.closing);
  }

  invoke<M extends Method>(invocation: Invocation<M>): Promise<ReplyOf<M>> {
    return this.invokeIn(undefined, invocation);
  }

  /** `deadline`: of a call that has begun to wait before. */
  invokeIn<M extends Method>(
    session: SessionState | undefined,
    invocation: Invocation<M>,
    deadline?: number,
  ): Promise<ReplyOf<M>> {
    const { method, request, kind, options, needs, check, batch, source } = invocation;
    let level = toLevel(options.level);
    if (level === 0 && kind === 'read') level = session ? levelOf(session) : this.readLevel;
    if (level === 0 && kind === 'write' && method !== 'deleteRange') level = this.writeLevel;
    const staleness = level === toLevel('bounded') ? (options.maxStalenessMs ?? this.maxStalenessMs) : 0;
    return this.caller.call({
      method,
      request,
      level,
      maxStalenessMs: toI32(staleness, 'maxStalenessMs'),
      timeoutMs: toTimeout(options.timeoutMs ?? this.timeoutMs, 'timeoutMs'),
      signal: options.signal,
      source: source ?? this.pool,
      session,
      ...(deadline === undefined ? {} : { deadline }),
      ...(needs ? { needs } : {}),
      ...(check ? { check } : {}),
      ...(batch ? { batch } : {}),
    });
  }
}

/**
 * A client of a cluster of Pando, or of one node. One is enough for a whole process: its calls share connections.
 *
 * @example
 * ```ts
 * const client = new Client(['127.0.0.1:7440', '127.0.0.1:7450']);
 * await client.put('fruit/apple', 'red');
 * const record = await client.get('fruit/apple');
 * console.log(record?.value.toString(), record?.version);
 * await client.close();
 * ```
 */
export class Client extends KvOperations {
  private readonly core: ClientInvoker;

  /** Closes it. Exists if Node.js has Symbol.asyncDispose (18.18 or later). */
  declare [Symbol.asyncDispose]: () => Promise<void>;

  /**
   * Connects with the first call.
   *
   * @param addresses - `HOST:PORT` of one or several routers, or of all nodes. It begins at a random one, and goes to
   * the next if one fails. If a node names another one of them as the master of a key, it goes there.
   */
  constructor(addresses: string | readonly string[], options: ClientOptions = {}) {
    const core = new ClientInvoker(typeof addresses === 'string' ? addresses.split(',') : addresses, options);
    super(core);
    this.core = core;
  }

  /**
   * Begins a session: its reads may ask any replica, and see all that the session has written and read.
   *
   * @param token - The `token` of a session of another process, which this one continues.
   */
  session(token?: Uint8Array): Session {
    return new Session(this.core, token);
  }

  /** Watches the changes of a prefix, on a connection of its own. */
  watch(options: WatchOptions = {}): Watch {
    return new Watch(this.core, new DedicatedSource(this.core.pool), options);
  }

  /** What the server that the client uses now says of itself. Connects if there is no connection. */
  async serverInfo(options: CallOptions = {}): Promise<ServerInfo> {
    const deadline = now() + toTimeout(options.timeoutMs ?? this.core.timeoutMs, 'timeoutMs');
    if (options.signal?.aborted) throw abortError(options.signal);
    const connection = await this.core.pool.acquire({ deadline, signal: options.signal });
    const { reply } = connection.hello;
    connection.release();
    const limits = reply.limits;
    return {
      serverVersion: reply.server_version ?? '',
      apiVersion: reply.api_version ?? 0,
      nodeId: reply.node_id ?? '',
      clusterId: reply.cluster_id ?? '',
      features: reply.features ?? [],
      limits: {
        maxKeyBytes: limits?.max_key_bytes ?? 0,
        maxValueBytes: limits?.max_value_bytes ?? 0,
        maxBatchOps: limits?.max_batch_ops ?? 0,
        maxBatchBytes: limits?.max_batch_bytes ?? 0,
        maxMultiGetKeys: limits?.max_multi_get_keys ?? 0,
        maxFrameBytes: limits?.max_frame_bytes ?? 0,
        maxScanRows: limits?.max_scan_rows ?? 0,
        maxScanBytes: limits?.max_scan_bytes ?? 0,
      },
    };
  }

  /** Closes all connections. Calls under way fail with ClientClosedError. Snapshots that are open expire. */
  async close(): Promise<void> {
    this.core.pool.close();
  }
}

function levelOf(session: SessionState): number {
  return toLevel(session.overflowed ? 'linearizable' : 'session');
}

/** Gives every call the token of the session, and keeps the newest; so the calls of a session follow each other. */
class SessionInvoker implements Invoker {
  readonly state: SessionState;
  private last: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly core: ClientInvoker,
    token: Buffer,
  ) {
    this.state = { token, overflowed: false };
  }

  get timeoutMs(): number {
    return this.core.timeoutMs;
  }

  invoke<M extends Method>(invocation: Invocation<M>): Promise<ReplyOf<M>> {
    const before = this.last;
    const call = this.inTurn(before, invocation);
    this.last = before.then(() => call.catch(() => {}));
    return call;
  }

  private async inTurn<M extends Method>(before: Promise<unknown>, invocation: Invocation<M>): Promise<ReplyOf<M>> {
    const { method, options } = invocation;
    const timeoutMs = toTimeout(options.timeoutMs ?? this.timeoutMs, 'timeoutMs');
    const deadline = now() + timeoutMs;
    await turnAfter(before, timeoutMs, options.signal, () => {
      const cause = transportError('another call of the session was under way', false);
      const message = `${method} was not done within ${timeoutMs} ms (0 tries): ${cause.message}`;
      return new DeadlineError({ message, applied: 'NO', tries: 0, cause });
    });
    return this.core.invokeIn(this.state, invocation, deadline);
  }
}

/** Waits for the calls before, which never reject, or until its time or the signal ends the call that waits. */
function turnAfter(
  before: Promise<unknown>,
  timeoutMs: number,
  signal: AbortSignal | undefined,
  late: () => DeadlineError,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => (stopListening(), reject(late())), Math.min(MAX_TIMER_MS, timeoutMs));
    const end = (): void => (clearTimeout(timer), reject(abortError(signal as AbortSignal)));
    const stopListening = onAbort(signal, end);
    if (signal?.aborted) end();
    void before.then(() => (clearTimeout(timer), stopListening(), resolve()));
  });
}

/**
 * Calls that belong together: reads are at the level `session` unless they say another, and see everything that the
 * session has read and written. (When it has seen more partitions than its token can name, they are `linearizable`.) Calls that are made at once are carried out one after the other; a call waits for its
 * turn no longer than its timeout.
 */
export class Session extends KvOperations {
  private readonly own: SessionInvoker;

  /** @internal */
  constructor(core: ClientInvoker, token?: Uint8Array) {
    const own = new SessionInvoker(core, token ? toBytes(token, 'token') : Buffer.alloc(0));
    super(own);
    this.own = own;
  }

  /** What the session has seen. Give it to `client.session` in another process to continue there. A copy. */
  get token(): Buffer {
    return Buffer.from(this.own.state.token);
  }
}

if (Symbol.asyncDispose) {
  Object.defineProperty(Client.prototype, Symbol.asyncDispose, {
    value: function (this: Client): Promise<void> {
      return this.close();
    },
  });
}
