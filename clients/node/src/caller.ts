/**
 * Makes calls: repeats them until their time is over, gives writes their names, and says what became of them.
 *
 * A write is named by a lane (client_id) and a sequence, so that it is applied once however often it is sent. A lane
 * has one write under way. After a write whose outcome is unknown, its lane is not used again: the next write of that
 * lane would make the server forget what came of it.
 */
import { randomBytes } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { onAbort } from './abort';
import type { BatchTries } from './batch_tries';
import type { Address, Connection, Limit } from './connection';
import { abortError, AbortError, BadRequestError, closedError, DeadlineError, ErrorCode, PandoError } from './errors';
import { forbidRepeat, ProtocolError, transportError, TransportError, withUnknownOutcome } from './errors';
import * as wire from './gen/pando_types';
import type { ConnectionSource } from './pool';
import { WRITES } from './protocol';
import type { Method, ReplyOf, RequestOf } from './protocol';
import { now } from './values';

const FIRST_BACKOFF_MS = 10;
const LONGEST_BACKOFF_MS = 1000;

const NAMED: ReadonlySet<Method> = new Set(['put', 'remove', 'increment', 'touch', 'writeBatch']);

/** The same request would fail again, whatever the server says of it. */
const FINAL: ReadonlySet<number> = new Set([
  ErrorCode.SNAPSHOT_GONE,
  ErrorCode.FEED_GONE,
  ErrorCode.SESSION_LOST,
  ErrorCode.BAD_CURSOR,
  ErrorCode.TOKEN_MISMATCH,
]);

export interface Call<M extends Method> {
  readonly method: M;
  /** A function if it depends on how much time is left, in ms. */
  readonly request: RequestOf<M> | ((leftMs: number) => RequestOf<M>);
  readonly level?: number;
  readonly maxStalenessMs?: number | null;
  readonly timeoutMs: number;
  /** When the time is over, if it began before the call did. */
  readonly deadline?: number;
  readonly signal?: AbortSignal | undefined;
  readonly source: ConnectionSource;
  /** Without this feature of the server, the call is refused. */
  readonly needs?: string;
  /** Throws if the reply is one that counts as a failed try. */
  readonly check?: (reply: ReplyOf<M>) => void;
  /** Of a batch: what is known of its ops. */
  readonly batch?: BatchTries;
  /** Whose session it belongs to. */
  readonly session?: SessionState | undefined;
}

/**
 * The newest token of a session. `overflowed`: it has seen more partitions than a token can tell of, so from now on only
 * the masters show all that it has seen.
 */
export interface SessionState {
  token: Buffer;
  overflowed: boolean;
}

/** The reply to these always has the token of the session, unless there is none any more or a snapshot was read. */
const TELLS_TOKEN: ReadonlySet<Method> = new Set(['get', 'put', 'remove', 'increment', 'touch']);

interface Lane {
  readonly clientId: Buffer;
  sequence: bigint;
}

/** The name of one write; the same in all tries. */
interface WriteName {
  readonly lane: Lane;
  readonly sequence: bigint;
  readonly firstSentMs: bigint;
}

export class Caller {
  /** The highest HLC of all replies. */
  hlc = 0n;
  private readonly freeLanes: Lane[] = [];

  /** @param closing - Is aborted when the client is closed. */
  constructor(readonly closing: AbortSignal) {}

  /** Throws PandoError; see its subclasses. */
  async call<M extends Method>(call: Call<M>): Promise<ReplyOf<M>> {
    const tries = new Tries(this, call);
    try {
      return await tries.run();
    } finally {
      tries.finish();
    }
  }

  takeLane(): Lane {
    return this.freeLanes.pop() ?? { clientId: randomBytes(16), sequence: 0n };
  }

  giveLane(lane: Lane): void {
    this.freeLanes.push(lane);
  }

  /** Takes from a reply or an error what later requests must carry. */
  observe(context: wire.ReplyContext | null | undefined, session: SessionState | undefined): void {
    if (context?.hlc && context.hlc > this.hlc) this.hlc = context.hlc;
    if (session && context?.session?.length) session.token = context.session;
  }

  get closed(): boolean {
    return this.closing.aborted;
  }
}

/** What a try was made on. */
interface Used {
  connection: Connection | null;
  reused: boolean;
}

/** All tries of one call. */
class Tries<M extends Method> {
  private readonly limit: Limit;
  private readonly isWrite: boolean;
  private count = 0;
  private backoffMs = FIRST_BACKOFF_MS;
  /** The name of this write, if it has been sent under one. */
  private name: WriteName | null = null;
  /** A try may have been applied. */
  private unknown = false;
  /** The outcome of the call is certain. */
  private certain = false;
  /** Where the next try goes; null = to any server. */
  private target: Address | null = null;
  /** A master that was named, and that could not be asked. Whoever names it may not know yet who is the next. */
  private unreachable: Address | null = null;
  /** A try has followed the address of a master at once. Another one waits, so that two servers cannot make a loop. */
  private followed = false;

  constructor(
    private readonly caller: Caller,
    private readonly call: Call<M>,
  ) {
    this.limit = { deadline: call.deadline ?? now() + call.timeoutMs, signal: call.signal };
    this.isWrite = WRITES.has(call.method);
  }

  async run(): Promise<ReplyOf<M>> {
    try {
      return await this.untilAnswered();
    } catch (error) {
      const { batch } = this.call;
      const reply = error instanceof PandoError ? batch?.settle(error, this.unknown) : null;
      if (!reply) {
        if (error instanceof PandoError && NAMED.has(this.call.method)) forbidRepeat(error);
        throw error;
      }
      this.certain = !batch?.unknown;
      return reply as ReplyOf<M>;
    }
  }

  private async untilAnswered(): Promise<ReplyOf<M>> {
    for (;;) {
      const { signal } = this.limit;
      if (signal?.aborted) throw abortError(signal, this.outcome());
      const used: Used = { connection: null, reused: false };
      try {
        return await this.attempt(used);
      } catch (error) {
        if (!(error instanceof PandoError)) throw error;
        await this.afterFailure(error, used);
      }
    }
  }

  /** Gives the lane back, unless its write may still be under way. */
  finish(): void {
    if (this.name && this.certain) this.caller.giveLane(this.name.lane);
  }

  private outcome(): 'NO' | 'UNKNOWN' {
    return this.isWrite && (this.unknown || this.call.batch?.begun) ? 'UNKNOWN' : 'NO';
  }

  private async attempt(used: Used): Promise<ReplyOf<M>> {
    const { call, limit } = this;
    this.count += 1;
    const connection = await call.source.acquire(limit, this.target);
    used.connection = connection;
    used.reused = connection.served;
    if (connection.idle) await nextTurn();
    let context: wire.Context;
    let request: RequestOf<M>;
    try {
      if (connection.isClosed) throw transportError(`${connection.address.text} had closed the connection`, false);
      if (call.needs && !connection.hello.features.has(call.needs)) {
        const message = `${connection.address.text} does not have the feature "${call.needs}"`;
        throw new BadRequestError({ code: ErrorCode.BAD_REQUEST, message, applied: 'NO' });
      }
      const left = Math.max(1, Math.floor(limit.deadline - now()));
      context = this.context(connection, left);
      request = typeof call.request === 'function' ? call.request(left) : call.request;
    } catch (error) {
      connection.release();
      throw error;
    }
    const reply = await connection.request(call.method, context, request, limit);
    this.caller.observe(reply.context, call.session);
    this.lookForToken(reply.context, request);
    try {
      call.check?.(reply);
      const again = call.batch?.take(reply as wire.WriteBatchReply, this.name !== null, this.unknown);
      if (again) throw again;
    } catch (error) {
      if (error instanceof ProtocolError) connection.close();
      throw error;
    }
    this.certain = !call.batch?.unknown;
    return reply;
  }

  private lookForToken(context: wire.ReplyContext | null | undefined, request: RequestOf<M>): void {
    const { method, session } = this.call;
    if (!session?.token.length || context?.session?.length || !TELLS_TOKEN.has(method)) return;
    if (!(request as { snapshot?: Buffer | null }).snapshot?.length) session.overflowed = true;
  }

  private context(connection: Connection, budgetMs: number): wire.Context {
    const { call, caller } = this;
    const { features } = connection.hello;
    const context = new wire.Context({ budget_ms: budgetMs });
    if (call.level) context.level = call.level;
    if (call.maxStalenessMs) context.max_staleness_ms = call.maxStalenessMs;
    if (call.session?.token.length) context.session = call.session.token;
    if (caller.hlc > 0n && features.has('clocks')) context.hlc = caller.hlc;
    // The master answers a write at the level ONE before it could remember the name.
    const nameable = NAMED.has(call.method) && call.level !== wire.LEVEL_ONE;
    if (nameable && (this.name || features.has('idempotent_writes'))) {
      this.name ??= this.newName(connection);
      context.client_id = this.name.lane.clientId;
      context.sequence = this.name.sequence;
      context.first_sent_ms = this.name.firstSentMs;
    }
    return context;
  }

  private newName(connection: Connection): WriteName {
    const lane = this.caller.takeLane();
    lane.sequence += 1n;
    return { lane, sequence: lane.sequence, firstSentMs: connection.serverNowMs() };
  }

  /** Returns when it is time for the next try; throws if there is none. */
  private async afterFailure(error: PandoError, used: Used): Promise<void> {
    const { deadline, signal } = this.limit;
    const atOnce = this.aim(error, used.connection);
    this.caller.observe(error.context, this.call.session);
    if (this.isWrite && error.applied === 'UNKNOWN') this.unknown = true;
    if (error instanceof AbortError) throw abortError(signal as AbortSignal, this.outcome());
    if (this.caller.closed) throw closedError(this.outcome());
    if (!this.mayRepeat(error)) {
      if (error.code === ErrorCode.DEADLINE) throw this.deadlineError(error);
      if (this.isWrite && this.unknown && error.applied === 'NO') throw withUnknownOutcome(error);
      this.certain = error.applied !== 'UNKNOWN';
      throw error;
    }
    let waitMs = atOnce ? 0 : error.retryAfterMs;
    if (waitMs <= 0 && !atOnce) {
      waitMs = Math.random() * this.backoffMs;
      // The server may have closed a connection that was idle; that says nothing about a new one.
      if (error instanceof TransportError && used.reused && this.count === 1) waitMs = 0;
      else this.backoffMs = Math.min(this.backoffMs * 2, LONGEST_BACKOFF_MS);
    }
    if (now() + waitMs >= deadline) throw this.deadlineError(error);
    if (waitMs > 0) await this.sleep(waitMs);
  }

  /** Chooses the server of the next try. Returns whether that is a master that was named, so that it need not wait. */
  private aim(error: PandoError, connection: Connection | null): boolean {
    const before = this.target;
    const answered = connection !== null && !(error instanceof TransportError);
    if (before && !(answered && connection.address === before)) this.unreachable = before;
    const from = connection?.address;
    this.target = answered && from ? this.call.source.elsewhere(error, from, before, this.unreachable) : null;
    const leads = this.target !== null && this.target !== from;
    const follows = error.master !== '' && leads && !this.followed;
    this.followed ||= follows;
    return follows;
  }

  private mayRepeat(error: PandoError): boolean {
    // A server that says DEADLINE has had the time that it was given for this try.
    if (error.code !== ErrorCode.DEADLINE && (!error.retryable || FINAL.has(error.code))) return false;
    // A write without a name might be applied twice.
    return !(this.unknown && NAMED.has(this.call.method) && !this.name);
  }

  private deadlineError(cause: PandoError): DeadlineError {
    const { call, count } = this;
    const applied = this.outcome();
    this.certain = applied === 'NO';
    const tries = count === 1 ? '1 try' : `${count} tries`;
    const message = `${call.method} was not done within ${call.timeoutMs} ms (${tries}): ${cause.message}`;
    return new DeadlineError({ message, applied, tries: count, cause });
  }

  /** Returns early when the caller or the client ends the call. */
  private sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        clearTimeout(timer);
        for (const stop of stopListening) stop();
        resolve();
      };
      const timer = setTimeout(wake, ms);
      const signals = [this.limit.signal, this.caller.closing];
      const stopListening = signals.map((signal) => onAbort(signal, wake));
      if (signals.some((signal) => signal?.aborted)) wake();
    });
  }
}
