/**
 * One connection to a router or node.
 *
 * Several requests may be under way at once if the server accepts `out_of_order_replies`; replies are matched by
 * sequence id and by method. The library's own connection is not used: it drops a reply with an unknown sequence id
 * without a word, leaves the callers of a lost connection waiting for ever, knows no deadlines, and handles input byte
 * by byte.
 *
 * A connection that did anything unexpected is never used again. `retired`: it takes no new requests, and closes after
 * the last of those that are under way. `closed`: all that were under way have failed.
 */
import { once } from 'node:events';
import { connect } from 'node:net';
import type { Socket, TcpNetConnectOpts } from 'node:net';
import { onAbort } from './abort';
import * as wire from './gen/pando_types';
import { abortError, fromKvError, fromRefusal, ProtocolError, protocolError, transportError } from './errors';
import type { PandoError } from './errors';
import { decodeReply, encodeCall, MalformedFrame, WRITES } from './protocol';
import type { Method, ReplyBody, ReplyOf, RequestOf } from './protocol';
import { MAX_TIMER_MS, now } from './values';

const OUT_OF_ORDER = 'out_of_order_replies';
const API_VERSION = 2;
/** Requests under way on one connection whose replies may overtake each other. */
export const MAX_IN_FLIGHT = 128;
/** So many requests whose callers gave up may still be unanswered before the connection is replaced. */
const MAX_ABANDONED = 32;
/** A longer reply can only be a broken one: scans, batches and frames of requests are limited to a few MiB. */
const MAX_FRAME_BYTES = 256 * 1024 * 1024;
const MAX_SEQUENCE = 0x7fffffff;
/** The server is given the call's whole time, and its answer this much more, so that it answers first. */
const GRACE_MS = 200;
const IDLE_MS = 1;
/** Clocks drift, so no connection serves longer without another hello. */
const MAX_HELLO_AGE_MS = 3_600_000;

export interface Address {
  readonly host: string;
  readonly port: number;
  readonly text: string;
}

export interface ConnectOptions {
  clientName: string;
  connectTimeoutMs: number;
}

/** When a call must be over, by now(), and what may end it sooner. */
export interface Limit {
  readonly deadline: number;
  readonly signal?: AbortSignal | undefined;
}

/** What the server said of itself. */
export interface ServerHello {
  readonly reply: wire.HelloReply;
  readonly features: ReadonlySet<string>;
  /** now() when the reply came. */
  readonly at: number;
}

interface Pending {
  readonly method: Method;
  resolve(body: ReplyBody): void;
  reject(error: PandoError): void;
}

/** Cuts the bytes that come into frames. */
class FrameReader {
  private chunks: Buffer[] = [];
  private received = 0;
  private wanted = 4;
  private inHeader = true;

  /** The frames that `chunk` completes. Throws MalformedFrame if a length cannot be one. */
  *frames(chunk: Buffer): Generator<Buffer> {
    this.chunks.push(chunk);
    this.received += chunk.length;
    while (this.received >= this.wanted) {
      const bytes = this.take(this.wanted);
      if (this.inHeader) {
        this.wanted = bytes.readUInt32BE(0);
        this.inHeader = false;
        if (this.wanted > MAX_FRAME_BYTES) throw new MalformedFrame(`its length is ${this.wanted} bytes`);
      } else {
        this.wanted = 4;
        this.inHeader = true;
        yield bytes;
      }
    }
  }

  // A frame is put together once, when its last byte has come.
  private take(bytes: number): Buffer {
    let first = this.chunks[0] ?? Buffer.alloc(0); // an empty frame at the end of what has come
    if (first.length < bytes) {
      first = Buffer.concat(this.chunks);
      this.chunks = [first];
    }
    if (first.length === bytes) this.chunks.shift();
    else this.chunks[0] = first.subarray(bytes);
    this.received -= bytes;
    return first.subarray(0, bytes);
  }
}

export class Connection {
  /** Called once, when the connection takes no more requests. `failed`: it broke, or its server does not answer. */
  onUnusable: (failed: boolean) => void = () => {};
  /** Called when a request has ended, so that another one may take its place. */
  onFree: () => void = () => {};
  hello!: ServerHello;
  /** It has answered a request besides hello, so it may have been idle for long. */
  served = false;
  private readonly reader = new FrameReader();
  private readonly pending = new Map<number, Pending>();
  /** Sequence ids whose callers gave up. They keep their places until their replies come, which are thrown away. */
  private readonly abandoned = new Map<number, Method>();
  private capacity = 1;
  private places = 0;
  private sequence = 0;
  private lastReceivedAt = now();
  private retired = false;
  private closed = false;

  private constructor(
    private readonly socket: Socket,
    readonly address: Address,
  ) {
    const { text } = address;
    socket.setNoDelay(true);
    socket.setKeepAlive(true, 30_000);
    socket.on('data', (chunk: Buffer) => this.receive(chunk));
    socket.on('error', (error) =>
      this.lose(() => transportError(`the connection to ${text} broke: ${error.message}`, true, error)),
    );
    socket.on('end', () => this.lose(() => transportError(`${text} closed the connection`, true)));
    socket.on('close', () => this.lose(() => transportError(`the connection to ${text} is closed`, true)));
  }

  /**
   * Connects and says hello. Throws TransportError (certainly not applied), or what the server answered. Ends at once
   * when `closing` is aborted.
   */
  static async open(address: Address, options: ConnectOptions, closing: AbortSignal): Promise<Connection> {
    const deadline = now() + options.connectTimeoutMs;
    const { host, port } = address;
    const socket = connect({ host, port, autoSelectFamily: true } as TcpNetConnectOpts);
    const timer = setTimeout(
      () => socket.destroy(new Error(`no connection after ${options.connectTimeoutMs} ms`)),
      options.connectTimeoutMs,
    );
    const stopListening = onAbort(closing, () => socket.destroy(new Error('the client is closed')));
    try {
      await once(socket, 'connect');
    } catch (error) {
      stopListening();
      socket.destroy();
      throw transportError(`cannot connect to ${address.text}: ${(error as Error).message}`, false, error);
    } finally {
      clearTimeout(timer);
    }
    const connection = new Connection(socket, address);
    try {
      await connection.sayHello(options.clientName, deadline);
      return connection;
    } catch (error) {
      connection.close();
      if ((error as PandoError).applied === 'NO') throw error;
      // Nothing but hello was sent, so no write can have been applied.
      throw transportError(`${address.text} did not answer hello: ${(error as Error).message}`, false, error);
    } finally {
      stopListening();
    }
  }

  private async sayHello(clientName: string, deadline: number): Promise<void> {
    this.reserve();
    const budget = Math.max(1, Math.floor(deadline - now()));
    const reply = await this.request(
      'hello',
      new wire.Context({ budget_ms: budget }),
      new wire.HelloRequest({ client_name: clientName, api_version: API_VERSION, features: [OUT_OF_ORDER] }),
      { deadline },
    );
    this.hello = { reply, features: new Set(reply.features ?? []), at: now() };
    if (reply.accepted_features?.includes(OUT_OF_ORDER)) this.capacity = MAX_IN_FLIGHT;
  }

  /** The number of places that are taken; Infinity if there is none for another request. */
  get load(): number {
    return this.usable && this.places < this.capacity ? this.places : Infinity;
  }

  /**
   * Nothing has come for a while, so the server may have closed it: whoever sends next lets the events of the socket be
   * handled first.
   */
  get idle(): boolean {
    return this.places <= 1 && now() - this.lastReceivedAt > IDLE_MS;
  }

  get isClosed(): boolean {
    return this.closed;
  }

  get usable(): boolean {
    return !this.retired && !this.closed;
  }

  /** Its hello is so old that the clocks may have drifted apart. */
  get stale(): boolean {
    return now() - this.hello.at > MAX_HELLO_AGE_MS;
  }

  /** The server's clock as Unix time in ms, for Context.first_sent_ms. */
  serverNowMs(): bigint {
    return (this.hello.reply.now_ms ?? 0n) + BigInt(Math.floor(now() - this.hello.at));
  }

  /** Takes a place for one request. `request` gives it back; without a request, `release` does. */
  reserve(): void {
    if (this.places++ === 0) this.socket.ref();
  }

  release(): void {
    // An idle connection does not keep the process alive.
    if (--this.places === 0) this.socket.unref();
    if (this.closed) return;
    if (this.retired) this.closeIfDone();
    else this.onFree();
  }

  /** Sends one request in the place that was reserved for it. Throws what the server answered, or TransportError. */
  async request<M extends Method>(
    method: M,
    context: wire.Context,
    request: RequestOf<M>,
    limit: Limit,
  ): Promise<ReplyOf<M>> {
    const body = await this.exchange(method, limit, (sequence) => encodeCall(method, sequence, context, request));
    if (body.refusal) {
      const error = fromRefusal(this.address.text, body.refusal, WRITES.has(method));
      if (error instanceof ProtocolError) this.close();
      throw error;
    }
    if (body.error) throw fromKvError(body.error, WRITES.has(method));
    return body.success as ReplyOf<M>;
  }

  private exchange(method: Method, limit: Limit, encode: (sequence: number) => Buffer): Promise<ReplyBody> {
    const { deadline, signal } = limit;
    return new Promise((resolve, reject) => {
      const sequence = this.nextSequence();
      let frame: Buffer;
      try {
        if (this.closed) throw transportError(`the connection to ${this.address.text} is closed`, false);
        frame = encode(sequence);
      } catch (error) {
        this.release();
        reject(error);
        return;
      }
      const sentAt = now();
      const settled = (): void => {
        clearTimeout(timer);
        stopListening();
      };
      const timer = setTimeout(
        () => {
          settled();
          this.giveUp(sequence, method, sentAt);
          reject(transportError(`${this.address.text} did not answer in time`, true));
        },
        Math.min(MAX_TIMER_MS, Math.max(0, deadline - sentAt) + GRACE_MS),
      );
      const stopListening = onAbort(signal, () => {
        settled();
        this.giveUp(sequence, method, null);
        reject(abortError(signal as AbortSignal, 'UNKNOWN'));
      });
      this.pending.set(sequence, {
        method,
        resolve: (body) => (settled(), resolve(body)),
        reject: (error) => (settled(), reject(error)),
      });
      this.write(frame);
    });
  }

  // The frames of calls that are made together go to the kernel together.
  private write(frame: Buffer): void {
    if (this.socket.writableCorked === 0) {
      this.socket.cork();
      process.nextTick(() => this.socket.uncork());
    }
    this.socket.write(frame);
  }

  private nextSequence(): number {
    this.sequence = this.sequence === MAX_SEQUENCE ? 1 : this.sequence + 1;
    return this.sequence;
  }

  /**
   * The caller of a request waits no longer. `sentAt` is null if that is not the server's fault. Other requests that
   * are under way on this connection may still be answered, unless the server has said nothing since.
   */
  private giveUp(sequence: number, method: Method, sentAt: number | null): void {
    this.pending.delete(sequence);
    this.abandoned.set(sequence, method);
    const timedOut = sentAt !== null;
    if (timedOut && this.lastReceivedAt < sentAt) {
      this.lose(() => transportError(`${this.address.text} does not answer`, true));
    } else if (timedOut || this.capacity === 1 || this.abandoned.size > MAX_ABANDONED) {
      this.retire(timedOut);
    }
  }

  private receive(chunk: Buffer): void {
    this.lastReceivedAt = now();
    try {
      for (const frame of this.reader.frames(chunk)) {
        if (this.closed) return;
        this.handle(frame);
      }
    } catch (error) {
      if (!(error instanceof MalformedFrame)) throw error;
      this.lose(() => protocolError(`a reply of ${this.address.text} is broken: ${error.message}`, error));
    }
  }

  private handle(frame: Buffer): void {
    const reply = decodeReply(frame);
    const pending = this.pending.get(reply.sequence);
    const method = pending?.method ?? this.abandoned.get(reply.sequence);
    if (method === undefined) throw new MalformedFrame(`nobody waits for sequence id ${reply.sequence}`);
    if (method !== reply.name) throw new MalformedFrame(`it answers ${reply.name}, but ${method} was called`);
    if (!pending) {
      this.abandoned.delete(reply.sequence);
      this.release();
      return;
    }
    const body = reply.read();
    this.pending.delete(reply.sequence);
    if (method !== 'hello') this.served = true;
    this.release();
    pending.resolve(body);
  }

  /** Takes no new requests; closes when those that are under way have ended. */
  retire(failed: boolean): void {
    if (!this.usable) return;
    this.retired = true;
    this.onUnusable(failed);
    this.closeIfDone();
  }

  private closeIfDone(): void {
    if (this.places <= this.abandoned.size) this.close();
  }

  /** Closes at once. What is under way fails. */
  close(): void {
    this.lose(() => transportError(`the connection to ${this.address.text} was closed by the client`, true));
  }

  private lose(why: () => PandoError): void {
    if (this.closed) return;
    const wasUsable = this.usable;
    this.closed = true;
    this.socket.destroy();
    const lost = [...this.pending.values()];
    this.pending.clear();
    this.abandoned.clear();
    // An idle connection that the server closes says nothing against the server.
    if (wasUsable) this.onUnusable(lost.length > 0);
    for (const pending of lost) pending.reject(why());
  }
}
