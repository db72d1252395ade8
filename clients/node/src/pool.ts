/**
 * The connections of one client, and the addresses that they lead to.
 *
 * Invariants: at most `poolSize` connections are open or being opened, besides the dedicated ones. At most one is being
 * opened, and those that wait for it share it or its failure. Who waits is served in order.
 */
import { Connection } from './connection';
import type { Address, ConnectOptions, Limit } from './connection';
import { abortError, closedError, transportError } from './errors';
import type { PandoError } from './errors';
import { now } from './values';

const DEFAULT_PORT = 7420;
/** An address that failed is avoided so long, if there is another one. */
const AVOID_MS = 1000;

/** Where a call gets its connection, with a place reserved on it. */
export interface ConnectionSource {
  acquire(limit: Limit): Promise<Connection>;
}

/** Parses `host:port`, `[v6]:port`, or a host alone. */
export function parseAddress(text: string): Address {
  const match = /^(?:\[([^\]\s]+)\]|([^:[\]\s]+))(?::(\d+))?$/.exec(text.trim());
  const port = match?.[3] === undefined ? DEFAULT_PORT : Number(match[3]);
  const host = match?.[1] ?? match?.[2];
  if (host === undefined || port < 1 || port > 65535) {
    throw new TypeError(`"${text}" is no address; write HOST:PORT, or [IPV6]:PORT`);
  }
  return { host, port, text: text.trim() };
}

/** Knows which address to try next: the one that works, else the one that has not failed for the longest time. */
export class AddressBook {
  private readonly avoidUntil: number[];
  private current: number;

  constructor(private readonly addresses: readonly Address[]) {
    if (addresses.length === 0) throw new TypeError('give at least one address');
    this.avoidUntil = addresses.map(() => 0);
    this.current = Math.floor(Math.random() * addresses.length);
  }

  pick(): Address {
    const count = this.addresses.length;
    const order = Array.from({ length: count }, (_, i) => (this.current + i) % count);
    const time = now();
    const well = order.find((i) => (this.avoidUntil[i] as number) <= time);
    const chosen =
      well ?? order.reduce((a, b) => ((this.avoidUntil[b] as number) < (this.avoidUntil[a] as number) ? b : a));
    this.current = chosen;
    return this.addresses[chosen] as Address;
  }

  failed(address: Address): void {
    this.avoidUntil[this.addresses.indexOf(address)] = now() + AVOID_MS;
  }

  works(address: Address): void {
    this.avoidUntil[this.addresses.indexOf(address)] = 0;
  }
}

interface Waiter {
  resolve(connection: Connection): void;
  reject(error: PandoError): void;
}

export class Pool implements ConnectionSource {
  private readonly connections = new Set<Connection>();
  private readonly dedicated = new Set<Connection>();
  private readonly waiters = new Set<Waiter>();
  private opening = false;
  private closed = false;

  constructor(
    private readonly addresses: AddressBook,
    private readonly size: number,
    private readonly options: ConnectOptions,
  ) {}

  /** Throws TransportError if no connection can be made, and AbortError. */
  acquire(limit: Limit): Promise<Connection> {
    return new Promise((resolve, reject) => {
      if (this.closed) {
        reject(closedError());
        return;
      }
      const { signal } = limit;
      const settled = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
        this.waiters.delete(waiter);
      };
      const waiter: Waiter = {
        resolve: (connection) => (settled(), resolve(connection)),
        reject: (error) => (settled(), reject(error)),
      };
      const timer = setTimeout(
        () => waiter.reject(transportError('no connection was free in time', false)),
        Math.max(0, limit.deadline - now()),
      );
      const onAbort = (): void => waiter.reject(abortError(signal as AbortSignal));
      signal?.addEventListener('abort', onAbort);
      this.waiters.add(waiter);
      this.serve();
    });
  }

  /** Opens a connection that only the caller uses, and that `close` closes too. */
  async openDedicated(): Promise<Connection> {
    if (this.closed) throw closedError();
    const connection = await this.connect();
    this.dedicated.add(connection);
    connection.onUnusable = (failed) => {
      this.dedicated.delete(connection);
      if (failed) this.addresses.failed(connection.address);
    };
    return connection;
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    for (const waiter of [...this.waiters]) waiter.reject(closedError());
    for (const connection of [...this.connections, ...this.dedicated]) connection.close();
  }

  get isClosed(): boolean {
    return this.closed;
  }

  // Gives places to those that wait. Another connection is opened only when there is no place on any.
  private serve(): void {
    for (const connection of [...this.connections]) if (connection.stale) connection.retire(false);
    for (const waiter of this.waiters) {
      const connection = this.leastLoaded();
      if (!connection) break;
      connection.reserve();
      waiter.resolve(connection);
    }
    if (this.waiters.size > 0 && !this.opening && this.connections.size < this.size) void this.open();
  }

  private leastLoaded(): Connection | null {
    let best: Connection | null = null;
    let least = Infinity;
    for (const connection of this.connections) {
      const { load } = connection;
      if (load < least) {
        best = connection;
        least = load;
      }
    }
    return best;
  }

  private async open(): Promise<void> {
    this.opening = true;
    const sharers = new Set(this.waiters);
    try {
      const connection = await this.connect();
      this.connections.add(connection);
      connection.onFree = () => this.serve();
      connection.onUnusable = (failed) => {
        this.connections.delete(connection);
        if (failed) this.addresses.failed(connection.address);
        if (!this.closed) this.serve();
      };
    } catch (error) {
      // Later ones have not seen a try of their own yet.
      for (const waiter of sharers) if (this.waiters.has(waiter)) waiter.reject(error as PandoError);
    } finally {
      this.opening = false;
    }
    if (!this.closed) this.serve();
  }

  private async connect(): Promise<Connection> {
    const address = this.addresses.pick();
    let connection: Connection;
    try {
      connection = await Connection.open(address, this.options);
    } catch (error) {
      this.addresses.failed(address);
      throw error;
    }
    if (this.closed) {
      connection.close();
      throw closedError();
    }
    this.addresses.works(address);
    return connection;
  }
}

/** A connection of its own for one caller that makes one call at a time, opened again when it was lost. */
export class DedicatedSource implements ConnectionSource {
  private connection: Connection | null = null;
  private closed = false;

  constructor(private readonly pool: Pool) {}

  async acquire(limit: Limit): Promise<Connection> {
    if (!this.connection?.usable) this.connection = await this.open(limit);
    this.connection.reserve();
    return this.connection;
  }

  private async open(limit: Limit): Promise<Connection> {
    const opening = this.pool.openDedicated();
    try {
      const connection = await within(opening, limit);
      if (!this.closed) return connection;
      connection.close();
      throw closedError();
    } catch (error) {
      opening.then(
        (connection) => connection.close(),
        () => {},
      );
      throw error;
    }
  }

  close(): void {
    this.closed = true;
    this.connection?.close();
  }
}

/** Waits no longer than the limit says. What was waited for goes on. */
async function within<T>(promise: Promise<T>, { deadline, signal }: Limit): Promise<T> {
  let stop = (): void => {};
  const limit = new Promise<never>((_, reject) => {
    const timer = setTimeout(
      () => reject(transportError('no connection in time', false)),
      Math.max(0, deadline - now()),
    );
    const onAbort = (): void => reject(abortError(signal as AbortSignal));
    signal?.addEventListener('abort', onAbort);
    stop = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    };
  });
  try {
    return await Promise.race([promise, limit]);
  } finally {
    stop();
  }
}
