/**
 * The connections of one client, and the addresses that they lead to.
 *
 * Invariants: at most `poolSize` connections are open or being opened, besides the dedicated ones, and one for each
 * address to which an answer has sent a call. At most one is being opened for each of those addresses, and one for
 * calls that may go anywhere; those that wait for it share it or its failure. Who waits for the same is served in
 * order. If the time of such a call is over first, its attempt is late: it goes on, besides the others, and another
 * address is tried. At most one attempt for each address is late, and never for all addresses.
 */
import { onAbort } from './abort';
import { Connection } from './connection';
import type { Address, ConnectOptions, Limit } from './connection';
import { abortError, closedError, ErrorCode, transportError } from './errors';
import type { PandoError } from './errors';
import { MAX_TIMER_MS, now } from './values';

const DEFAULT_PORT = 7420;
/** An address that failed is avoided so long, if there is another one. */
const AVOID_MS = 1000;

/** Where a call gets its connection, with a place reserved on it. */
export interface ConnectionSource {
  /** `to`: the connection must lead there; null = anywhere. */
  acquire(limit: Limit, to?: Address | null): Promise<Connection>;
  /**
   * Where a call goes next after a server at `from` has answered with this error; null = anywhere. `before`: where it
   * was told to go for this try. `unreachable` is not followed.
   */
  elsewhere(error: PandoError, from: Address, before: Address | null, unreachable: Address | null): Address | null;
}

/** Another server may be able to answer. */
const ANSWERED_ELSEWHERE: ReadonlySet<number> = new Set([
  ErrorCode.NOT_MASTER,
  ErrorCode.STALE_MAP,
  ErrorCode.TOO_STALE,
  ErrorCode.UNAVAILABLE,
]);

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

  /** `late` is not chosen; it has not all addresses. */
  pick(late: ReadonlySet<Address> = new Set()): Address {
    const count = this.addresses.length;
    const all = Array.from({ length: count }, (_, i) => (this.current + i) % count);
    const order = all.filter((i) => !late.has(this.addresses[i] as Address));
    const time = now();
    const well = order.find((i) => (this.avoidUntil[i] as number) <= time);
    const chosen =
      well ?? order.reduce((a, b) => ((this.avoidUntil[b] as number) < (this.avoidUntil[a] as number) ? b : a));
    this.current = chosen;
    return this.addresses[chosen] as Address;
  }

  /** See ConnectionSource. An address that was not given is not followed: whoever sends it could name any host. */
  elsewhere(error: PandoError, from: Address, before: Address | null, unreachable: Address | null): Address | null {
    if (!ANSWERED_ELSEWHERE.has(error.code)) return before;
    if (error.code === ErrorCode.UNAVAILABLE) this.failed(from);
    const master = this.find(error.master);
    if (master && master !== unreachable) return master;
    return error.code === ErrorCode.NOT_MASTER || error.code === ErrorCode.UNAVAILABLE ? this.after(from) : before;
  }

  /** It failed lately. */
  avoids(address: Address): boolean {
    return (this.avoidUntil[this.addresses.indexOf(address)] as number) > now();
  }

  /** Some address has not failed lately, and is none of these. */
  hasOther(than: ReadonlySet<Address>): boolean {
    const time = now();
    return this.addresses.some((address, i) => !than.has(address) && (this.avoidUntil[i] as number) <= time);
  }

  private find(text: string): Address | null {
    if (text === '') return null;
    try {
      const { host, port } = parseAddress(text);
      return this.addresses.find((address) => address.host === host && address.port === port) ?? null;
    } catch {
      return null;
    }
  }

  /** The next one that has not failed lately; null if there is none. */
  private after(from: Address): Address | null {
    const { addresses } = this;
    const first = addresses.indexOf(from) + 1;
    const time = now();
    for (let i = 0; i < addresses.length - 1; ++i) {
      const index = (first + i) % addresses.length;
      if ((this.avoidUntil[index] as number) <= time) return addresses[index] as Address;
    }
    return null;
  }

  failed(address: Address): void {
    this.avoidUntil[this.addresses.indexOf(address)] = now() + AVOID_MS;
  }

  works(address: Address): void {
    this.avoidUntil[this.addresses.indexOf(address)] = 0;
  }
}

/** The opening of a connection. */
interface Attempt {
  readonly address: Address;
}

interface Waiter {
  resolve(connection: Connection): void;
  reject(error: PandoError): void;
}

export class Pool implements ConnectionSource {
  private readonly connections = new Set<Connection>();
  private readonly dedicated = new Set<Connection>();
  /** By where they must go; null = anywhere. */
  private readonly waiters = new Map<Address | null, Set<Waiter>>();
  /** By where they must go. */
  private readonly opening = new Map<Address | null, Attempt>();
  private readonly late = new Set<Attempt>();
  private readonly ending = new AbortController();
  private closed = false;

  constructor(
    private readonly addresses: AddressBook,
    private readonly size: number,
    private readonly options: ConnectOptions,
  ) {}

  /** Throws TransportError if no connection can be made, and AbortError. */
  acquire(limit: Limit, to: Address | null = null): Promise<Connection> {
    return new Promise((resolve, reject) => {
      if (this.closed) {
        reject(closedError());
        return;
      }
      const { signal } = limit;
      const settled = (): void => {
        clearTimeout(timer);
        stopListening();
        waiters.delete(waiter);
        if (waiters.size === 0 && this.waiters.get(to) === waiters) this.waiters.delete(to);
      };
      const waiter: Waiter = {
        resolve: (connection) => (settled(), resolve(connection)),
        reject: (error) => (settled(), reject(error)),
      };
      const timer = setTimeout(
        () => {
          waiter.reject(transportError('no connection was free in time', false));
          if (!to) this.overtake();
        },
        Math.min(MAX_TIMER_MS, Math.max(0, limit.deadline - now())),
      );
      const stopListening = onAbort(signal, () => waiter.reject(abortError(signal as AbortSignal)));
      const waiters = this.waiters.get(to) ?? new Set();
      this.waiters.set(to, waiters.add(waiter));
      this.serve();
    });
  }

  elsewhere(error: PandoError, from: Address, before: Address | null, unreachable: Address | null): Address | null {
    return this.addresses.elsewhere(error, from, before, unreachable);
  }

  /** Opens a connection that only the caller uses, and that `close` closes too. */
  async openDedicated(to: Address | null): Promise<Connection> {
    if (this.closed) throw closedError();
    const connection = await this.connect(to ?? this.addresses.pick());
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
    this.ending.abort();
    const told = [...this.waiters.values()].flatMap((waiters) => [...waiters]);
    for (const waiter of told) waiter.reject(closedError());
    for (const connection of [...this.connections, ...this.dedicated]) connection.close();
  }

  /** Aborted when the pool is closed. */
  get closing(): AbortSignal {
    return this.ending.signal;
  }

  // Gives places to those that wait. Another connection is opened only when there is no place on any.
  private serve(): void {
    for (const connection of [...this.connections]) if (connection.stale) connection.retire(false);
    for (const [to, waiters] of [...this.waiters]) {
      for (const waiter of waiters) {
        const connection = this.leastLoaded(to);
        if (!connection) break;
        connection.reserve();
        waiter.resolve(connection);
      }
      if (waiters.size > 0 && !this.opening.has(to) && this.mayOpen(to)) void this.open(to);
    }
  }

  /** The time of a call was over before its connection was open. Others try another address, if there is a good one. */
  private overtake(): void {
    const attempt = this.opening.get(null);
    if (!attempt || !this.addresses.hasOther(this.lateAddresses().add(attempt.address))) return;
    this.opening.delete(null);
    this.late.add(attempt);
    this.serve();
  }

  private lateAddresses(): Set<Address> {
    return new Set([...this.late].map(({ address }) => address));
  }

  private get hasRoom(): boolean {
    return this.connections.size + this.opening.size < this.size;
  }

  private mayOpen(to: Address | null): boolean {
    if (this.hasRoom) return true;
    return to !== null && ![...this.connections].some((connection) => connection.address === to);
  }

  private leastLoaded(to: Address | null): Connection | null {
    if (to) return leastLoadedOf(this.connections, (connection) => connection.address === to);
    const good = leastLoadedOf(this.connections, ({ address }) => !this.addresses.avoids(address));
    return good ?? leastLoadedOf(this.connections);
  }

  private async open(to: Address | null): Promise<void> {
    const attempt: Attempt = { address: to ?? this.addresses.pick(this.lateAddresses()) };
    this.opening.set(to, attempt);
    const sharers = [...(this.waiters.get(to) ?? [])];
    try {
      const connection = await this.connect(attempt.address);
      if (this.late.has(attempt) && !this.hasRoom) connection.close();
      else this.add(connection);
    } catch (error) {
      // Later ones have not seen a try of their own yet, and those of a late one wait for another.
      if (!this.late.has(attempt)) for (const waiter of sharers) waiter.reject(error as PandoError);
    } finally {
      if (!this.late.delete(attempt)) this.opening.delete(to);
    }
    if (!this.closed) this.serve();
  }

  private add(connection: Connection): void {
    this.connections.add(connection);
    connection.onFree = () => this.serve();
    connection.onUnusable = (failed) => {
      this.connections.delete(connection);
      if (failed) this.addresses.failed(connection.address);
      if (!this.closed) this.serve();
    };
  }

  private async connect(address: Address): Promise<Connection> {
    let connection: Connection;
    try {
      connection = await Connection.open(address, this.options, this.closing);
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

function leastLoadedOf(
  connections: Iterable<Connection>,
  fits: (connection: Connection) => boolean = () => true,
): Connection | null {
  let best: Connection | null = null;
  let least = Infinity;
  for (const connection of connections) {
    const { load } = connection;
    if (load < least && fits(connection)) {
      best = connection;
      least = load;
    }
  }
  return best;
}

/** A connection of its own for one caller that makes one call at a time, opened again when it was lost. */
export class DedicatedSource implements ConnectionSource {
  private connection: Connection | null = null;
  private closed = false;

  constructor(private readonly pool: Pool) {}

  async acquire(limit: Limit, to: Address | null = null): Promise<Connection> {
    if (to && this.connection && this.connection.address !== to) this.connection.close();
    if (!this.connection?.usable) this.connection = await this.open(limit, to);
    this.connection.reserve();
    return this.connection;
  }

  elsewhere(error: PandoError, from: Address, before: Address | null, unreachable: Address | null): Address | null {
    return this.pool.elsewhere(error, from, before, unreachable);
  }

  private async open(limit: Limit, to: Address | null): Promise<Connection> {
    const opening = this.pool.openDedicated(to);
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
      Math.min(MAX_TIMER_MS, Math.max(0, deadline - now())),
    );
    const stopListening = onAbort(signal, () => reject(abortError(signal as AbortSignal)));
    stop = () => {
      clearTimeout(timer);
      stopListening();
    };
  });
  try {
    return await Promise.race([promise, limit]);
  } finally {
    stop();
  }
}
